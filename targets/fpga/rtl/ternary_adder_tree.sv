// y = the sum of N signed numbers of W bits, three at a time, one register a level.
module ternary_adder_tree #(
    parameter int N = 8,
    parameter int W = 10,
    parameter int Y = 13  // bits of y: enough for all levels
) (
    /* verilator lint_off UNUSEDSIGNAL */
    input  wire           clk,  // the last of a tree has no register
    /* verilator lint_on UNUSEDSIGNAL */
    input  wire [N*W-1:0] terms,
    output wire [  Y-1:0] y
);
  generate
    if (N == 1) begin : g_leaf
      assign y = {{Y - W{terms[W-1]}}, terms};
    end else begin : g_level
      localparam int THIRD = (N + 2) / 3;
      localparam int M = W + 2 < Y ? W + 2 : Y;
      reg [THIRD*M-1:0] sums;
      genvar i;
      for (i = 0; i < THIRD; i = i + 1) begin : g_three
        wire [M-1:0] a = {{M - W{terms[3*i*W+W-1]}}, terms[3*i*W+:W]};
        wire [M-1:0] sum;
        if (3 * i + 2 < N) begin : g_all
          ternary_adder #(
              .W(M)
          ) add (
              .a(a),
              .b({{M - W{terms[(3*i+1)*W+W-1]}}, terms[(3*i+1)*W+:W]}),
              .c({{M - W{terms[(3*i+2)*W+W-1]}}, terms[(3*i+2)*W+:W]}),
              .y(sum)
          );
        end else if (3 * i + 1 < N) begin : g_two
          assign sum = a + {{M - W{terms[(3*i+1)*W+W-1]}}, terms[(3*i+1)*W+:W]};
        end else begin : g_one
          assign sum = a;
        end
        always @(posedge clk) sums[i*M+:M] <= sum;
      end
      ternary_adder_tree #(
          .N(THIRD),
          .W(M),
          .Y(Y)
      ) rest (
          .clk(clk),
          .terms(sums),
          .y(y)
      );
    end
  endgenerate
endmodule
