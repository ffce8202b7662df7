// y = the sum of N signed numbers of W bits, one register a level: ceil(log2 N) cycles later.
module adder_tree #(
    parameter int N = 8,
    parameter int W = 10
) (
    /* verilator lint_off UNUSEDSIGNAL */
    input  wire                             clk,  // the last of a tree has no register
    /* verilator lint_on UNUSEDSIGNAL */
    input  wire        [           N*W-1:0] terms,
    output wire signed [W+$clog2(N)-1:0]    y
);
  generate
    if (N == 1) begin : g_leaf
      assign y = terms;
    end else begin : g_level
      localparam int HALF = (N + 1) / 2;
      reg [HALF*(W+1)-1:0] sums;
      genvar i;
      for (i = 0; i < HALF; i = i + 1) begin : g_pair
        wire signed [W-1:0] a = terms[2*i*W+:W];
        if (2 * i + 1 < N) begin : g_add
          wire signed [W-1:0] b = terms[(2*i+1)*W+:W];
          always @(posedge clk) sums[i*(W+1)+:W+1] <= {a[W-1], a} + {b[W-1], b};
        end else begin : g_pass
          always @(posedge clk) sums[i*(W+1)+:W+1] <= {a[W-1], a};
        end
      end
      adder_tree #(
          .N(HALF),
          .W(W + 1)
      ) rest (
          .clk(clk),
          .terms(sums),
          .y(y)
      );
    end
  endgenerate
endmodule
