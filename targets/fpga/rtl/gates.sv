// What is made of LANES requantised sums y a cycle: the gates of the MLGRU, the GLU.
//
//   forget  lb + ((65536 - lb) * sigmoid(y)) >> 16            9 cycles behind y
//   silu(y)                                                   9 (the gate of the GLU)
//   state   h' = (f h + (65536 - f) (silu(y) << 9) + 2^15) >> 16   13
//   shown   silu of h' >> 9, rounded                          23
//   gated   (other * y + 2^8) >> 9                            6
module gates #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*27-1:0] y,
    input  wire                forgets,      // y is of the forget gate
    input  wire [         3:0] fraction,
    input  wire [LANES*16-1:0] lower_bound,  // 6 cycles behind y
    input  wire [LANES*16-1:0] f,            // 9 cycles behind y
    input  wire [LANES*27-1:0] h,            // 9 cycles behind y
    input  wire [LANES*18-1:0] other,        // 2 cycles behind y
    output wire [LANES*16-1:0] forget,
    output wire [LANES*18-1:0] silu_y,
    output wire [LANES*27-1:0] state,
    output wire [LANES*18-1:0] shown,
    output wire [LANES*27-1:0] gated
);
  wire [LANES*18-1:0] narrow, narrow6, a, rounded, rounded6;
  wire [LANES*16-1:0] s, shown_s;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      reg signed [17:0] y_at[0:5];
      wire [16:0] kept = 17'd65536 - {1'b0, lower_bound[16*i+:16]};
      assign narrow[18*i+:18] = y[27*i+:18];
      assign narrow6[18*i+:18] = y_at[5];
      assign a[18*i+:18] = forgets ? {1'b0, kept} : narrow6[18*i+:18];
      assign forget[16*i+:16] = silu_y[18*i+:16];

      // the state: c is silu_y
      wire [16:0] fi = {1'b0, f[16*i+:16]};
      reg signed [17:0] f1, g1, c1;
      reg signed [26:0] h1;
      reg signed [44:0] fh_multiplied, fh;
      reg signed [35:0] gc_multiplied, gc;
      reg signed [26:0] next;
      reg signed [17:0] rounded_next;
      wire signed [44:0] sum = fh + {gc, 9'd0} + 45'sd32768;
      wire signed [26:0] half_up = next + 27'sd256;
      reg signed [17:0] next_at[0:5];

      // the gated product
      reg signed [17:0] other3, y3;
      reg signed [35:0] gated_multiplied, gated_product;
      reg signed [26:0] gated_rounded;
      wire signed [35:0] gated_half_up = gated_product + 36'sd256;
      integer j;
      always @(posedge clk) begin
        y_at[0] <= y[27*i+:18];
        next_at[0] <= rounded_next;
        for (j = 1; j < 6; j = j + 1) begin
          y_at[j] <= y_at[j-1];
          next_at[j] <= next_at[j-1];
        end
        f1 <= {1'b0, fi};
        g1 <= 18'd65536 - {1'b0, fi};
        h1 <= h[27*i+:27];
        c1 <= silu_y[18*i+:18];
        fh_multiplied <= f1 * h1;
        fh <= fh_multiplied;
        gc_multiplied <= g1 * c1;
        gc <= gc_multiplied;
        next <= sum[42:16];
        rounded_next <= half_up[26:9];
        other3 <= other[18*i+:18];
        y3 <= y_at[1];
        gated_multiplied <= other3 * y3;
        gated_product <= gated_multiplied;
        gated_rounded <= gated_half_up[35:9];
      end
      assign state[27*i+:27] = next;
      assign rounded[18*i+:18] = rounded_next;
      assign rounded6[18*i+:18] = next_at[5];
      assign gated[27*i+:27] = gated_rounded;
    end
  endgenerate

  sigmoid #(
      .LANES(LANES)
  ) sigmoid_y (
      .clk(clk),
      .y(narrow),
      .fraction(fraction),
      .s(s)
  );
  silu #(
      .LANES(LANES)
  ) silu_of_y (
      .clk(clk),
      .a(a),
      .s(s),
      .floored(forgets),
      .offset(forgets ? lower_bound : {LANES * 16{1'b0}}),
      .y(silu_y)
  );
  sigmoid #(
      .LANES(LANES)
  ) sigmoid_state (
      .clk(clk),
      .y(rounded),
      .fraction(fraction),
      .s(shown_s)
  );
  silu #(
      .LANES(LANES)
  ) silu_of_state (
      .clk(clk),
      .a(rounded6),
      .s(shown_s),
      .floored(1'b0),
      .offset({LANES * 16{1'b0}}),
      .y(shown)
  );
endmodule
