// One token of a MatMul-free language model: the program's rows over one vector unit and one engine.
//
// Vectors lie in words of LANES numbers.  Constants (the embedding's row, then gains and lower bounds
// in the order of their use) and weights come through a memory_reader each, far ahead.
//
//   sequencer --> vector_unit --activations--> ternary_engine <-- weights
//                      ^---------sums---------------'
module token_engine #(
    parameter int P = 16,
    parameter int GROUPS = 8,
    parameter int CODEC = 1,
    parameter int LANES = 8,
    parameter int X_WORDS = 32,    // words of x
    parameter int P_WORDS = 96,    // words of p and a: the longest of the inner vectors
    parameter int F_WORDS = 32,    // words of f and g
    parameter int H_WORDS = 192,   // words of h: all layers
    parameter int Q_WORDS = 100,   // words of the engine's activations
    parameter int Y_WORDS = 512,   // row groups of the tallest matrix
    parameter int ROWS = 64,       // of the program
    parameter int BURST = 16,
    parameter int AHEAD = 64,      // words of weights that are read ahead
    localparam int WEIGHTS = P * GROUPS * program_row::group_bits(CODEC)
) (
    input  wire                       clk,
    input  wire                       rst,
    input  wire                       start,
    input  wire [               31:0] token,
    input  wire                       fresh,            // a sequence begins: h is zero
    output wire                       busy,
    output wire [               31:0] likeliest,
    // the image, in words of its port
    input  wire [               31:0] weights_base,
    input  wire [               31:0] weights_words,
    input  wire [               31:0] embedding_base,
    input  wire [               31:0] constants_base,
    input  wire [               31:0] constants_words,
    output wire                       w_request,
    input  wire                       w_request_ready,
    output wire [               31:0] w_request_address,
    output wire [                7:0] w_request_words,
    input  wire                       w_response,
    input  wire [        WEIGHTS-1:0] w_response_data,
    output wire                       c_request,
    input  wire                       c_request_ready,
    output wire [               31:0] c_request_address,
    output wire [                7:0] c_request_words,
    input  wire                       c_response,
    input  wire [       LANES*16-1:0] c_response_data,
    // logits, while not busy: (sum * factor) >> (right + 1), two cycles behind the address
    input  wire [$clog2(Y_WORDS)-1:0] y_address,
    output wire [           P*24-1:0] y_data,
    output wire [               15:0] factor,
    output wire [                5:0] right,
    // for who measures
    output wire                       w_wanted,         // the engine would take weights
    output wire                       w_there
);
  wire [127:0] row;
  program_row::fields fields;
  assign fields = row;
  wire pass_start, pass_done, scalar_start, scalar_busy, engine_start, engine_idle;
  wire [2:0] pass, scalar_command;
  sequencer #(
      .ROWS(ROWS)
  ) sequence_of_rows (
      .clk(clk),
      .rst(rst),
      .start(begun[1]),
      .busy(sequencing),
      .row(row),
      .pass_start(pass_start),
      .pass(pass),
      .pass_done(pass_done),
      .scalar_start(scalar_start),
      .scalar_command(scalar_command),
      .scalar_busy(scalar_busy),
      .engine_start(engine_start),
      .engine_idle(engine_idle)
  );

  // A token: where its row of the embedding lies, then the readers and the sequencer begin.
  reg [1:0] begun;
  reg [31:0] embedding_row;
  reg cleared, streaming;
  wire sequencing;
  assign busy = sequencing || begun != 2'b00;
  always @(posedge clk) begin
    begun <= rst ? 2'b00 : {begun[0], start};
    streaming <= !rst && (streaming || begun[0]);
    if (start) cleared <= fresh;
    embedding_row <= embedding_base + token * X_WORDS;
  end

  wire c_valid, c_ready, w_valid, w_ready;
  wire [LANES*16-1:0] c_data;
  wire [WEIGHTS-1:0] w_data;
  assign w_wanted = w_ready;
  assign w_there  = w_valid;
  memory_reader #(
      .WIDTH(LANES * 16),
      .BURST(BURST),
      .DEPTH(64)
  ) constants (
      .clk(clk),
      .rst(rst),
      .start(begun[0]),
      .base0(embedding_row),
      .count0(X_WORDS),
      .base1(constants_base),
      .count1(constants_words),
      .again(1'b0),
      .request(c_request),
      .request_ready(c_request_ready),
      .request_address(c_request_address),
      .request_words(c_request_words),
      .response(c_response),
      .response_data(c_response_data),
      .valid(c_valid),
      .ready(c_ready),
      .data(c_data)
  );
  memory_reader #(
      .WIDTH(WEIGHTS),
      .BURST(BURST),
      .DEPTH(AHEAD)
  ) weights (
      .clk(clk),
      .rst(rst),
      .start(begun[0] && !streaming),
      .base0(weights_base),
      .count0(weights_words),
      .base1(weights_base),
      .count1(weights_words),
      .again(1'b1),
      .request(w_request),
      .request_ready(w_request_ready),
      .request_address(w_request_address),
      .request_words(w_request_words),
      .response(w_response),
      .response_data(w_response_data),
      .valid(w_valid),
      .ready(w_ready),
      .data(w_data)
  );

  wire q_write;
  wire [15:0] q_word, sums_word;
  wire [LANES*8-1:0] q;
  reg [LANES*24-1:0] sums;
  vector_unit #(
      .LANES(LANES),
      .X_WORDS(X_WORDS),
      .P_WORDS(P_WORDS),
      .F_WORDS(F_WORDS),
      .H_WORDS(H_WORDS)
  ) vector (
      .clk(clk),
      .rst(rst),
      .row(row),
      .cleared(cleared),
      .pass_start(pass_start),
      .pass(pass),
      .pass_done(pass_done),
      .scalar_start(scalar_start),
      .scalar_command(scalar_command),
      .scalar_busy(scalar_busy),
      .c_valid(c_valid),
      .c_ready(c_ready),
      .c_data(c_data),
      .q_write(q_write),
      .q_word(q_word),
      .q(q),
      .sums_word(sums_word),
      .sums(sums),
      .likeliest(likeliest),
      .factor(factor),
      .right(right)
  );

  // The engine; its sums are read LANES at a time, word by word of P.
  localparam int PARTS = P / LANES;
  localparam int PARTS_BITS = $clog2(PARTS);
  localparam int QA = $clog2(Q_WORDS), YA = $clog2(Y_WORDS);
  wire [15:0] group = sums_word >> PARTS_BITS;
  ternary_engine #(
      .P(P),
      .GROUPS(GROUPS),
      .CODEC(CODEC),
      .LANES(LANES),
      .X_WORDS(Q_WORDS),
      .Y_WORDS(Y_WORDS)
  ) engine (
      .clk(clk),
      .rst(rst),
      .x_write(q_write),
      .x_address(q_word[QA-1:0]),
      .x_data(q),
      .start(engine_start),
      .slices(fields.slices),
      .row_groups(fields.row_groups),
      .idle(engine_idle),
      .w_valid(w_valid),
      .w_ready(w_ready),
      .w_data(w_data),
      .y_address(sequencing ? group[YA-1:0] : y_address),
      .y_data(y_data)
  );
  generate
    if (PARTS == 1) begin : g_whole
      always @(posedge clk) sums <= y_data;
    end else begin : g_part
      reg [PARTS_BITS-1:0] part1, part2;
      always @(posedge clk) begin
        {part2, part1} <= {part1, sums_word[PARTS_BITS-1:0]};
        sums <= y_data[part2*LANES*24+:LANES*24];
      end
    end
  endgenerate
endmodule
