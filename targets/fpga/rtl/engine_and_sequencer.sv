// The ternary engine under the sequencer, for place and route.
//
// Passes over vectors only count their words here: activations come from outside, scalars are there.
module engine_and_sequencer #(
    parameter int P = 16,
    parameter int GROUPS = 8,
    parameter int CODEC = 1,
    parameter int LANES = 8,
    parameter int Q_WORDS = 96,
    parameter int Y_WORDS = 512,
    parameter int ROWS = 64,
    localparam int BITS = program_row::group_bits(CODEC)
) (
    input  wire                       clk,
    input  wire                       rst,
    input  wire                       start,
    output wire                       busy,
    input  wire [        LANES*8-1:0] x_data,
    input  wire                       w_valid,
    output wire                       w_ready,
    input  wire [  P*GROUPS*BITS-1:0] w_data,
    input  wire [$clog2(Y_WORDS)-1:0] y_address,
    output wire [           P*24-1:0] y_data,
    output wire                       scalar_start,
    output wire [                2:0] scalar_command,
    output wire [              127:0] row
);
  program_row::fields fields;
  assign fields = row;
  wire pass_start, engine_start, engine_idle;
  wire [2:0] pass;
  reg passing;
  reg [15:0] index;
  wire pass_done = passing && index == fields.words - 16'd1;
  always @(posedge clk) begin
    passing <= !rst && (pass_start || (passing && !pass_done));
    index   <= pass_start ? 16'd0 : index + 16'd1;
  end
  sequencer #(
      .ROWS(ROWS)
  ) sequence_of_rows (
      .clk(clk),
      .rst(rst),
      .start(start),
      .busy(busy),
      .row(row),
      .pass_start(pass_start),
      .pass(pass),
      .pass_done(pass_done),
      .scalar_start(scalar_start),
      .scalar_command(scalar_command),
      .scalar_busy(1'b0),
      .engine_start(engine_start),
      .engine_idle(engine_idle)
  );
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
      .x_write(passing && pass == program_row::PASS_QUANTISE),
      .x_address(index[$clog2(Q_WORDS)-1:0]),
      .x_data(x_data),
      .start(engine_start),
      .slices(fields.slices),
      .row_groups(fields.row_groups),
      .idle(engine_idle),
      .w_valid(w_valid),
      .w_ready(w_ready),
      .w_data(w_data),
      .y_address(y_address),
      .y_data(y_data)
  );
endmodule
