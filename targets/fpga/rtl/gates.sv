// What is made of LANES requantised sums y a cycle: the gates of the MLGRU, the GLU.
//
//   forget  lb + ((65536 - lb) * sigmoid(y)) >> 16            13 cycles behind y
//   silu(y)                                                   13 (the gate of the GLU)
//   state   h' = (f h + (65536 - f) (silu(y) << 9) + 2^15) >> 16   19
//   shown   silu of h' >> 9, rounded                          33
//   gated   (other * y + 2^8) >> 9                            6
module gates #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*27-1:0] y,
    input  wire                forgets,      // y is of the forget gate
    input  wire [         3:0] fraction,
    input  wire [LANES*16-1:0] lower_bound,  // 8 cycles behind y
    input  wire [LANES*16-1:0] f,            // 13 cycles behind y
    input  wire [LANES*27-1:0] h,            // 13 cycles behind y
    input  wire [LANES*18-1:0] other,        // 2 cycles behind y
    output wire [LANES*16-1:0] forget,
    output wire [LANES*18-1:0] silu_y,
    output wire [LANES*27-1:0] state,
    output wire [LANES*18-1:0] shown,
    output wire [LANES*27-1:0] gated
);
  wire [LANES*18-1:0] narrow, narrow9, a, rounded, rounded9;
  wire [LANES*16-1:0] s, shown_s;
  reg [LANES*16-1:0] bound;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      reg [9*18-1:0] y_at, next_at;
      reg [16:0] kept;
      assign narrow[18*i+:18] = y[27*i+:18];
      assign narrow9[18*i+:18] = y_at[8*18+:18];
      assign a[18*i+:18] = forgets ? {1'b0, kept} : narrow9[18*i+:18];
      assign forget[16*i+:16] = silu_y[18*i+:16];

      // the state: c is silu_y
      wire [16:0] fi = {1'b0, f[16*i+:16]};
      reg signed [17:0] f1, g1, c1;
      reg signed [26:0] h1;
      wire signed [44:0] fh;
      wire signed [35:0] gc;
      multiplier #(
          .A(27)
      ) kept_state (
          .clk(clk),
          .a(h1),
          .b(f1),
          .p(fh)
      );
      multiplier new_state (
          .clk(clk),
          .a(c1),
          .b(g1),
          .p(gc)
      );
      reg signed [35:0] gc_half;
      reg signed [26:0] next;
      reg signed [17:0] rounded_next;
      wire signed [44:0] sum = fh + {gc_half, 9'd0};
      wire signed [26:0] half_up = next + 27'sd256;

      // the gated product
      wire signed [35:0] gated_product;
      multiplier gate (
          .clk(clk),
          .a(other[18*i+:18]),
          .b(y_at[18+:18]),
          .p(gated_product)
      );
      reg signed [26:0] gated_rounded;
      wire signed [35:0] gated_half_up = gated_product + 36'sd256;
      always @(posedge clk) begin
        y_at <= {y_at[8*18-1:0], y[27*i+:18]};
        next_at <= {next_at[8*18-1:0], rounded_next};
        kept <= 17'd65536 - {1'b0, lower_bound[16*i+:16]};
        bound[16*i+:16] <= lower_bound[16*i+:16];
        f1 <= {1'b0, fi};
        g1 <= 18'd65536 - {1'b0, fi};
        h1 <= h[27*i+:27];
        c1 <= silu_y[18*i+:18];
        gc_half <= gc + 36'sd64;
        next <= sum[42:16];
        rounded_next <= half_up[26:9];
        gated_rounded <= gated_half_up[35:9];
      end
      assign state[27*i+:27] = next;
      assign rounded[18*i+:18] = rounded_next;
      assign rounded9[18*i+:18] = next_at[8*18+:18];
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
      .offset(bound),
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
      .a(rounded9),
      .s(shown_s),
      .floored(1'b0),
      .offset({LANES * 16{1'b0}}),
      .y(shown)
  );
endmodule
