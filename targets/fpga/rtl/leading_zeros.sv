// y = x << zeros, where `zeros` is how many zeros x begins with; 7 cycles later, 63 for x = 0.
//
// Three digits of base 4: zeros among the upper 16, 4, 1 bits, then a shift by as much.  With `even`
// the last digit is 0 or 2.  x has to stay as it is for so long.
module leading_zeros (
    input  wire        clk,
    input  wire [63:0] x,
    input  wire        even,
    output wire [63:0] y,
    output wire [ 5:0] zeros
);
  wire [4*64-1:0] shifted;
  reg [63:0] first;
  always @(posedge clk) first <= x;
  assign shifted[63:0] = first;
  genvar i;
  generate
    for (i = 0; i < 3; i = i + 1) begin : g_digit
      localparam int C = i == 0 ? 16 : i == 1 ? 4 : 1;
      wire [63:0] v = shifted[64*i+:64];
      wire [1:0] found = |v[63-:C] ? 2'd0 : |v[63-C-:C] ? 2'd1 : |v[63-2*C-:C] ? 2'd2 : 2'd3;
      reg [1:0] digit;
      reg [63:0] moved;
      always @(posedge clk) begin
        digit <= {found[1], found[0] && !(even && i == 2)};
        case (digit)
          2'd0: moved <= v;
          2'd1: moved <= v << C;
          2'd2: moved <= v << 2 * C;
          default: moved <= v << 3 * C;
        endcase
      end
      assign shifted[64*(i+1)+:64] = moved;
      assign zeros[5-2*i-:2] = digit;
    end
  endgenerate
  assign y = shifted[64*3+:64];
endmodule
