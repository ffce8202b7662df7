// x + y within 27 bits, four cycles behind y.  LANES numbers a cycle.
module residual_sum #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*27-1:0] x,   // a cycle behind y
    input  wire [LANES*27-1:0] y,
    output reg  [LANES*27-1:0] sum
);
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      reg signed [26:0] x1, y1, y2;
      reg signed [27:0] wide;
      always @(posedge clk) begin
        x1 <= x[27*i+:27];
        y1 <= y[27*i+:27];
        y2 <= y1;
        wide <= x1 + y2;
        sum[27*i+:27] <= wide > 28'sd67108863 ? 27'sd67108863
                       : wide < -28'sd67108863 ? -27'sd67108863 : wide[26:0];
      end
    end
  endgenerate
endmodule
