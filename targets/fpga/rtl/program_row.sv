// What a row of the program says, as targets/fpga/program.py writes it; and what numbers stand for.
package program_row;
  /* verilator lint_off UNUSEDPARAM */
  // operations of rows
  localparam [3:0] EMBED = 4'd1;
  localparam [3:0] NORM = 4'd2;
  localparam [3:0] QUANTISE = 4'd3;
  localparam [3:0] APPLY = 4'd4;  // a norm without quantiser, whose result gates
  localparam [3:0] PRODUCT = 4'd5;
  localparam [3:0] FINISH = 4'd6;  // what is done with the sums: its kinds
  localparam [3:0] STORE = 4'd0;
  localparam [3:0] FORGET = 4'd1;
  localparam [3:0] STATE = 4'd2;
  localparam [3:0] RESIDUAL = 4'd3;
  localparam [3:0] GATE = 4'd4;
  localparam [3:0] GATED = 4'd5;
  localparam [3:0] HEAD = 4'd6;
  // sources of a norm; the third is g
  localparam [1:0] FROM_X = 2'd0;
  localparam [1:0] FROM_P = 2'd1;
  // passes over a vector
  localparam [2:0] PASS_EMBED = 3'd0;
  localparam [2:0] PASS_LARGEST = 3'd1;
  localparam [2:0] PASS_NORM = 3'd2;
  localparam [2:0] PASS_QUANTISE = 3'd3;
  localparam [2:0] PASS_APPLY = 3'd4;
  localparam [2:0] PASS_FINISH = 3'd5;
  /* verilator lint_on UNUSEDPARAM */

  typedef struct packed {
    logic [3:0] above;
    logic [11:0] exponent;
    logic [15:0] mantissa;
    logic [15:0] row_groups;
    logic [15:0] slices;
    logic [15:0] base;      // word of h; of the argmax the lanes of the last word
    logic [15:0] offset;    // word of the first sum
    logic [15:0] words;
    logic free;
    logic [3:0] fraction;
    logic gain;
    logic [1:0] source;
    logic [3:0] kind;
    logic [3:0] operation;
  } fields;

  // Bits of a group of weights: see weight_decode.
  function automatic integer group_bits(input integer codec);
    group_bits = codec == 0 ? 6 : codec == 1 ? 5 : 8;
  endfunction
endpackage
