// (a * s + 2^15) >> 16 of what sigmoid gives: silu where a is y; 3 cycles behind s.
//
// `floored` leaves the rounding out and adds an offset: a forget gate with its lower bound.
module silu #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*18-1:0] a,
    input  wire [LANES*16-1:0] s,
    input  wire                floored,
    input  wire [LANES*16-1:0] offset,   // with s
    output wire [LANES*18-1:0] y
);
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      wire signed [17:0] ai = a[18*i+:18];
      wire signed [16:0] si = {1'b0, s[16*i+:16]};
      reg signed [34:0] multiplied, product;
      reg [15:0] offset1, offset2;
      reg signed [17:0] sum;
      wire signed [34:0] half_up = product + (floored ? 35'sd0 : 35'sd32768);
      always @(posedge clk) begin
        multiplied <= ai * si;
        product <= multiplied;
        offset1 <= offset[16*i+:16];
        offset2 <= offset1;
        sum <= half_up[33:16] + (floored ? {2'b00, offset2} : 18'd0);
      end
      assign y[18*i+:18] = sum;
    end
  endgenerate
endmodule
