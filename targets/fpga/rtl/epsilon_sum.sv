// total = squares + epsilon, epsilon = m * 2^k, k = e - 52 + 2 left; 1 instead of 0.
//
// Bits below 1 are dropped; k is 44 at most.  All is there 7 cycles after the last of its numbers.
module epsilon_sum (
    input  wire               clk,
    input  wire        [15:0] m,
    input  wire signed [11:0] e,
    input  wire        [ 5:0] left,
    input  wire        [49:0] squares,
    output reg         [63:0] total
);
  // m is shifted left by k + 16, 0 to 60, digit by digit of base 4, and then lies 16 bits too high.
  reg signed [11:0] lowered, k16;
  reg [5:0] shift;
  reg [63:0] by16;
  reg [75:0] by4, by1;
  reg [61:0] sum;
  always @(posedge clk) begin
    lowered <= e - 12'sd36;
    k16 <= lowered + {5'd0, left, 1'b0};
    shift <= k16 < 12'sd0 ? 6'd0 : k16 > 12'sd60 ? 6'd60 : k16[5:0];
    by16 <= {48'd0, m} << {shift[5:4], 4'd0};
    by4 <= {12'd0, by16} << {shift[3:2], 2'd0};
    by1 <= by4 << shift[1:0];
    sum <= {12'd0, squares} + {2'd0, by1[75:16]};
    total <= {2'd0, sum[61:1], sum[0] || sum == 62'd0};
  end
endmodule
