// y = saturate((v * factor + half) >> (right + 1)): LANES numbers a cycle, 10 cycles later.
//
// Rounds half up: (p + 2^right) >> (right + 1) is ((p >> right) + 1) >> 1.
module requantise #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*24-1:0] v,
    input  wire [        15:0] factor,
    input  wire [         5:0] right,
    input  wire                wide,    // 27 bits, not 18
    output wire [LANES*27-1:0] y
);
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      wire signed [40:0] product;
      multiplier #(
          .A(24),
          .B(17)
      ) multiply (
          .clk(clk),
          .a(v[24*i+:24]),
          .b({1'b0, factor}),
          .p(product)
      );
      reg signed [40:0] shifted16, shifted4, shifted1, rounded;
      reg above, below;
      reg signed [26:0] checked, saturated;
      wire signed [40:0] high = wide ? 41'sd67108863 : 41'sd131071;
      always @(posedge clk) begin
        shifted16 <= product >>> {right[5:4], 4'd0};
        shifted4 <= shifted16 >>> {right[3:2], 2'd0};
        shifted1 <= shifted4 >>> right[1:0];
        rounded <= (shifted1 + 41'sd1) >>> 1;
        {above, below} <= {rounded > high, rounded < -high};
        checked <= rounded[26:0];
        saturated <= above ? high[26:0] : below ? -high[26:0] : checked;
      end
      assign y[27*i+:27] = saturated;
    end
  endgenerate
endmodule
