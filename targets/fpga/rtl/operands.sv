// What a norm or a quantiser multiplies: a vector and its gains, three cycles behind the index.
module operands #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [       127:0] row,
    input  wire [         2:0] pass,
    input  wire [LANES*16-1:0] c,          // constants, two cycles late
    input  wire [LANES*16-1:0] gain_read,
    input  wire [LANES*27-1:0] x_read,
    input  wire [LANES*27-1:0] p_read,
    input  wire [LANES*18-1:0] g_read,
    input  wire [LANES*18-1:0] n_read,
    output reg  [LANES*27-1:0] x,
    output reg  [LANES*17-1:0] gain
);
  program_row::fields fields;
  assign fields = row;
  localparam [2:0] CONSTANT = 3'd0, NORMED = 3'd1, STREAM = 3'd2, PRODUCTS = 3'd3, GATES = 3'd4;
  reg [2:0] operand;
  reg [16:0] one;
  reg kept_gain;
  wire embeds = pass == program_row::PASS_EMBED;
  wire norms = fields.operation == program_row::NORM;
  always @(posedge clk) begin
    operand <= embeds ? CONSTANT : !norms ? NORMED
             : fields.source == program_row::FROM_X ? STREAM
             : fields.source == program_row::FROM_P ? PRODUCTS : GATES;
    one <= norms || embeds ? 17'd1 : 17'd32768;
    kept_gain <= pass != program_row::PASS_LARGEST;
  end
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      wire [15:0] given = c[16*i+:16];
      wire [15:0] kept = gain_read[16*i+:16];
      wire [17:0] g = g_read[18*i+:18];
      wire [17:0] n = n_read[18*i+:18];
      always @(posedge clk) begin
        x[27*i+:27] <= operand == CONSTANT ? {{11{given[15]}}, given}
                     : operand == NORMED ? {{9{n[17]}}, n}
                     : operand == STREAM ? x_read[27*i+:27]
                     : operand == PRODUCTS ? p_read[27*i+:27] : {{9{g[17]}}, g};
        gain[17*i+:17] <= !fields.gain ? one
                        : kept_gain ? {kept[15], kept} : {given[15], given};
      end
    end
  endgenerate
endmodule
