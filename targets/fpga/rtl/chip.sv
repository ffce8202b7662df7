// A whole language model on one chip: the token engine, weights and constants in block RAM.
//
// Give a token with `start`; when `busy` has fallen, `likeliest` is the next one.
module chip #(
    parameter int P = 4,
    parameter int GROUPS = 4,
    parameter int CODEC = 1,
    parameter int LANES = 2,
    parameter int X_WORDS = 32,
    parameter int P_WORDS = 32,
    parameter int F_WORDS = 32,
    parameter int H_WORDS = 32,
    parameter int Q_WORDS = 32,
    parameter int Y_WORDS = 32,
    parameter int ROWS = 64,
    parameter int TOKENS = 256,
    parameter int WEIGHTS = 1024,    // words of them
    parameter int CONSTANTS = 1024,  // words of gains and bounds, which lie behind the embedding
    localparam int BITS = program_row::group_bits(CODEC),
    localparam int T = $clog2(TOKENS)
) (
    input  wire         clk,
    input  wire         rst,
    input  wire         start,
    input  wire         fresh,      // a sequence begins
    input  wire [T-1:0] token,
    output reg          busy,
    output reg  [T-1:0] likeliest
);
  localparam int EMBEDDING = TOKENS * X_WORDS;
  localparam int BEAT = P * GROUPS * BITS;

  // Pins are far away: everything that comes or goes waits in a register.
  reg reset, started, begins;
  reg [T-1:0] given;
  wire working;
  wire [31:0] best;
  always @(posedge clk) begin
    {reset, started, begins, given} <= {rst, start, fresh, token};
    {busy, likeliest} <= {working || started, best[T-1:0]};
  end

  wire w_request, w_request_ready, w_response, c_request, c_request_ready, c_response;
  wire [31:0] w_address, c_address;
  wire [7:0] w_words, c_words;
  wire [BEAT-1:0] w_data;
  wire [LANES*16-1:0] c_data;
  block_memory #(
      .WIDTH(BEAT),
      .BANKS((WEIGHTS + 2047) / 2048),
      .NAME ("weights")
  ) weights (
      .clk(clk),
      .rst(reset),
      .request(w_request),
      .request_ready(w_request_ready),
      .request_address(w_address),
      .request_words(w_words),
      .response(w_response),
      .response_data(w_data)
  );
  block_memory #(
      .WIDTH(LANES * 16),
      .BANKS((EMBEDDING + CONSTANTS + 2047) / 2048),
      .NAME ("constants")
  ) constants (
      .clk(clk),
      .rst(reset),
      .request(c_request),
      .request_ready(c_request_ready),
      .request_address(c_address),
      .request_words(c_words),
      .response(c_response),
      .response_data(c_data)
  );
  /* verilator lint_off PINCONNECTEMPTY */
  token_engine #(
      .P(P),
      .GROUPS(GROUPS),
      .CODEC(CODEC),
      .LANES(LANES),
      .X_WORDS(X_WORDS),
      .P_WORDS(P_WORDS),
      .F_WORDS(F_WORDS),
      .H_WORDS(H_WORDS),
      .Q_WORDS(Q_WORDS),
      .Y_WORDS(Y_WORDS),
      .ROWS(ROWS)
  ) engine (
      .clk(clk),
      .rst(reset),
      .start(started),
      .token({{32 - T{1'b0}}, given}),
      .fresh(begins),
      .busy(working),
      .likeliest(best),
      .weights_base(32'd0),
      .weights_words(WEIGHTS),
      .embedding_base(32'd0),
      .constants_base(EMBEDDING),
      .constants_words(CONSTANTS),
      .w_request(w_request),
      .w_request_ready(w_request_ready),
      .w_request_address(w_address),
      .w_request_words(w_words),
      .w_response(w_response),
      .w_response_data(w_data),
      .c_request(c_request),
      .c_request_ready(c_request_ready),
      .c_request_address(c_address),
      .c_request_words(c_words),
      .c_response(c_response),
      .c_response_data(c_data),
      .y_address({$clog2(Y_WORDS) {1'b0}}),
      .y_data(),
      .factor(),
      .right(),
      .w_wanted(),
      .w_there()
  );
  /* verilator lint_on PINCONNECTEMPTY */
endmodule
