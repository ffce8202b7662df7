// p = a * b of numbers with sign, 3 cycles later; 4 where a has more than 18 bits.
//
// An ECP5 multiplies 18 x 18 bits, with registers that yosys does not use: with MMC_ECP5 its
// multipliers are named instead of inferred, and a longer `a` is cut in two.
module multiplier #(
    parameter int A = 18,  // up to 35
    parameter int B = 18
) (
    input  wire           clk,
    input  wire [  A-1:0] a,
    input  wire [  B-1:0] b,
    output wire [A+B-1:0] p
);
`ifdef MMC_ECP5
  wire [17:0] factor = {{18 - B{b[B-1]}}, b};
  wire [35:0] high;
  generate
    if (A <= 18) begin : g_one
      ecp5_multiplier whole (
          .clk(clk),
          .a({{18 - A{a[A-1]}}, a}),
          .b(factor),
          .p(high)
      );
      assign p = high[A+B-1:0];
    end else begin : g_two
      wire [35:0] low;
      reg [A+B-1:0] sum;
      ecp5_multiplier upper (
          .clk(clk),
          .a({{35 - A{a[A-1]}}, a[A-1:17]}),
          .b(factor),
          .p(high)
      );
      ecp5_multiplier lower (
          .clk(clk),
          .a({1'b0, a[16:0]}),
          .b(factor),
          .p(low)
      );
      always @(posedge clk) begin
        sum[16:0] <= low[16:0];
        sum[A+B-1:17] <= high[A+B-18:0] + {{A - 17{low[35]}}, low[16+B:17]};
      end
      assign p = sum;
    end
  endgenerate
`else
  reg signed [A-1:0] a0, a1;
  reg signed [B-1:0] b0, b1;
  reg signed [A+B-1:0] multiplied, product;
  always @(posedge clk) begin
    {a0, b0} <= {a, b};
    {a1, b1} <= A > 18 ? {a0, b0} : {a, b};
    multiplied <= a1 * b1;
    product <= multiplied;
  end
  assign p = product;
`endif
endmodule
