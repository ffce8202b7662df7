// Goes through the program of a token: a row is an operation of one to four steps, one at a time.
//
// A step is a pass over a vector, a computation of the scalar unit, or a product of the engine.
// targets/fpga/program.py writes the rows; `program.hex` holds them.
module sequencer #(
    parameter int ROWS = 64
) (
    input  wire         clk,
    input  wire         rst,
    input  wire         start,
    output wire         busy,
    output reg  [127:0] row,
    output reg          pass_start,
    output reg  [  2:0] pass,
    input  wire         pass_done,
    output reg          scalar_start,
    output reg  [  2:0] scalar_command,
    input  wire         scalar_busy,
    output reg          engine_start,
    input  wire         engine_idle
);
  // A row is there long before it is fetched: `next` moves on when the row before it begins.
  wire [127:0] fetched;
  reg [$clog2(ROWS)-1:0] next;
  rom #(
      .WIDTH(128),
      .WORDS(ROWS),
      .FILE ("program.hex")
  ) program_rows (
      .clk(clk),
      .address(next),
      .data(fetched)
  );
  reg [1:0] step;
  localparam [2:0] IDLE = 3'd0, FETCH = 3'd1, DECODE = 3'd2, BEGIN = 3'd3, SETTLE = 3'd4, WAIT = 3'd5;
  reg [2:0] state;
  assign busy = state != IDLE;
  program_row::fields fields;
  assign fields = row;
  wire [3:0] operation = fields.operation;
  reg passing, last_step;
  wire done = passing ? pass_done : !scalar_busy && engine_idle;

  always @(posedge clk) begin
    {pass_start, scalar_start, engine_start} <= 3'b000;
    if (rst) state <= IDLE;
    else
      case (state)
        IDLE: begin
          next <= {$clog2(ROWS) {1'b0}};
          if (start) state <= FETCH;
        end
        FETCH: state <= DECODE;
        DECODE: begin
          row <= fetched;
          next <= next + 1'b1;
          step <= 2'd0;
          state <= fetched[3:0] == 4'd0 ? IDLE : BEGIN;
        end
        BEGIN: begin
          state <= SETTLE;
          passing <= operation != program_row::PRODUCT && !step[0];
          last_step <= 1'b0;
          case (operation)
            program_row::EMBED, program_row::FINISH: begin
              {pass_start, last_step} <= 2'b11;
              pass <= operation == program_row::EMBED ? program_row::PASS_EMBED
                    : program_row::PASS_FINISH;
            end
            program_row::PRODUCT: begin
              {engine_start, scalar_start, last_step} <= 3'b111;
              scalar_command <= 3'd4;
            end
            default: begin
              pass_start <= !step[0];
              scalar_start <= step[0];
              pass <= step == 2'd0 ? program_row::PASS_LARGEST
                    : operation == program_row::NORM ? program_row::PASS_NORM
                    : operation == program_row::QUANTISE ? program_row::PASS_QUANTISE
                    : program_row::PASS_APPLY;
              scalar_command <= operation == program_row::NORM ? {2'b00, step[1]}
                              : operation == program_row::QUANTISE ? 3'd2 : 3'd3;
              last_step <= step == (operation == program_row::NORM ? 2'd3 : 2'd2);
            end
          endcase
        end
        SETTLE: state <= WAIT;  // until what was started says that it is busy
        default:
        if (done) begin
          step  <= step + 2'd1;
          state <= last_step ? FETCH : BEGIN;
        end
      endcase
  end
endmodule
