// A word of packed weights as addresses of tables, one cycle later.
//
// CODEC 0, 2 bits a trit: w + 1; a group is 3 trits.
// CODEC 1, 5 bits for 3 trits: the address a = (w0+1) + 3(w1+1) + 9(w2+1) itself.
// CODEC 2, 8 bits for 5 trits: a of the first three and b = (w3+1) + 3(w4+1); {a, b} where b < 8.
//   Where b is 8, {7, a % 4, a / 4}, for a < 27 leaves the upper three bits 7 to it; then 8 + a / 4 is
//   the address: the tables of two hold the sum of b = 8 at all of 8 to 14.
// A group has one address (two for CODEC 2: of a and of b).
module weight_decode #(
    parameter int GROUPS = 8,
    parameter int CODEC = 1,
    localparam int BITS = program_row::group_bits(CODEC),
    localparam int TABLES = CODEC == 2 ? 2 : 1
) (
    input  wire                       clk,
    input  wire [    GROUPS*BITS-1:0] word,
    output reg  [GROUPS*TABLES*5-1:0] addresses
);
  // The five bits of a as functions of the six of a group of CODEC 0.
  function automatic [64*5-1:0] table_of_sums(input integer unused);
    integer n;
    for (n = 0; n < 64; n = n + 1)
      table_of_sums[5*n+:5] = {3'd0, n[1:0]} + 5'd3 * {3'd0, n[3:2]} + 5'd9 * {3'd0, n[5:4]};
  endfunction
  localparam [64*5-1:0] SUMS = table_of_sums(0);

  genvar g;
  generate
    for (g = 0; g < GROUPS; g = g + 1) begin : g_group
      wire [BITS-1:0] code = word[BITS*g+:BITS];
      if (CODEC == 0) begin : g_pairs
        always @(posedge clk) addresses[5*g+:5] <= SUMS[5*code+:5];
      end else if (CODEC == 1) begin : g_threes
        always @(posedge clk) addresses[5*g+:5] <= code;
      end else begin : g_fives
        wire escape = code[7:5] == 3'd7;
        always @(posedge clk) begin
          addresses[10*g+:5]   <= {escape ? code[2:0] : code[7:5], code[4:3]};
          addresses[10*g+5+:5] <= {1'b0, escape, code[2:0]};
        end
      end
    end
  endgenerate
endmodule
