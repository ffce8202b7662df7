// (a * s + 2^15) >> 16 of what sigmoid gives: silu where a is y; 4 cycles behind s.
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
      wire signed [34:0] product;
      multiplier #(
          .A(18),
          .B(17)
      ) multiply (
          .clk(clk),
          .a(a[18*i+:18]),
          .b({1'b0, s[16*i+:16]}),
          .p(product)
      );
      reg [15:0] offset1, offset2;
      reg signed [34:0] addend;
      reg [17:0] rounded;
      wire signed [34:0] sum = product + addend;
      always @(posedge clk) begin
        {offset2, offset1} <= {offset1, offset[16*i+:16]};
        addend <= floored ? {3'd0, offset2, 16'd0} : 35'sd32768;
        rounded <= sum[33:16];
      end
      assign y[18*i+:18] = rounded;
    end
  endgenerate
endmodule
