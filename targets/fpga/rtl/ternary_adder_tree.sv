// N signed numbers as the sum of one or two, three added at a time, one register a level.
//
// What is left over where three are added goes on as it is, and is first in the next level: so N keeps
// its parity, and one number is left of an odd N, two of an even one.  Who adds them to a third has the
// two for the price of one.
module ternary_adder_tree #(
    parameter int N = 8,
    parameter int LARGEST = 384,  // of a number, without its sign
    parameter int Y = 13,         // bits of what is left: enough for all levels
    localparam int W = 1 + $clog2(LARGEST + 1),
    localparam int LEFT = 2 - N % 2
) (
    /* verilator lint_off UNUSEDSIGNAL */
    input  wire              clk,  // the last of a tree has no register
    /* verilator lint_on UNUSEDSIGNAL */
    input  wire [   N*W-1:0] terms,
    output wire [LEFT*Y-1:0] y
);
  genvar i;
  generate
    if (N <= 2) begin : g_leaf
      for (i = 0; i < N; i = i + 1) begin : g_left
        assign y[i*Y+:Y] = {{Y - W{terms[i*W+W-1]}}, terms[i*W+:W]};
      end
    end else begin : g_level
      localparam int OVER = N % 3;
      localparam int NEXT = N / 3 + OVER;
      localparam int M = 1 + $clog2(3 * LARGEST + 1);
      wire [N*M-1:0] wide;
      for (i = 0; i < N; i = i + 1) begin : g_wide
        assign wide[i*M+:M] = {{M - W{terms[i*W+W-1]}}, terms[i*W+:W]};
      end
      reg [NEXT*M-1:0] sums;
      for (i = 0; i < N / 3; i = i + 1) begin : g_three
        wire [M-1:0] sum;
        ternary_adder #(
            .W(M)
        ) add (
            .a(wide[3*i*M+:M]),
            .b(wide[(3*i+1)*M+:M]),
            .c(wide[(3*i+2)*M+:M]),
            .with_c(1'b1),
            .y(sum)
        );
        always @(posedge clk) sums[(OVER+i)*M+:M] <= sum;
      end
      if (OVER != 0) begin : g_over
        always @(posedge clk) sums[OVER*M-1:0] <= wide[N*M-1:(N-OVER)*M];
      end
      ternary_adder_tree #(
          .N(NEXT),
          .LARGEST(3 * LARGEST),
          .Y(Y)
      ) rest (
          .clk(clk),
          .terms(sums),
          .y(y)
      );
    end
  endgenerate
endmodule
