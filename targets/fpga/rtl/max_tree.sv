// y = the largest of N numbers without sign, one register a level: ceil(log2 N) cycles later.
module max_tree #(
    parameter int N = 8,
    parameter int W = 43
) (
    /* verilator lint_off UNUSEDSIGNAL */
    input  wire           clk,  // the last of a tree has no register
    /* verilator lint_on UNUSEDSIGNAL */
    input  wire [N*W-1:0] terms,
    output wire [  W-1:0] y
);
  generate
    if (N == 1) begin : g_leaf
      assign y = terms;
    end else begin : g_level
      localparam int HALF = (N + 1) / 2;
      reg [HALF*W-1:0] larger;
      genvar i;
      for (i = 0; i < HALF; i = i + 1) begin : g_pair
        wire [W-1:0] a = terms[2*i*W+:W];
        if (2 * i + 1 < N) begin : g_both
          wire [W-1:0] b = terms[(2*i+1)*W+:W];
          always @(posedge clk) larger[i*W+:W] <= a > b ? a : b;
        end else begin : g_pass
          always @(posedge clk) larger[i*W+:W] <= a;
        end
      end
      max_tree #(
          .N(HALF),
          .W(W)
      ) rest (
          .clk(clk),
          .terms(larger),
          .y(y)
      );
    end
  endgenerate
endmodule
