// Reads words of a memory in order, ahead of who takes them.
//
// A job is two stretches of words, one behind the other.  With `again` the second is read over and
// over: weights are the same for every token, so those of the next are under way before it begins.
// Bursts of BURST words at most are asked for while the words under way and the words in the FIFO
// leave room, so the memory is never told to wait.
module memory_reader #(
    parameter int WIDTH = 512,
    parameter int BURST = 16,
    parameter int DEPTH = 64    // words of the FIFO, a power of two
) (
    input  wire             clk,
    input  wire             rst,
    // a job
    input  wire             start,
    input  wire [     31:0] base0,
    input  wire [     31:0] count0,
    input  wire [     31:0] base1,
    input  wire [     31:0] count1,
    input  wire             again,
    // to the memory
    output reg              request,
    input  wire             request_ready,
    output reg  [     31:0] request_address,
    output reg  [      7:0] request_words,
    input  wire             response,
    input  wire [WIDTH-1:0] response_data,
    // to who takes them
    output wire             valid,
    input  wire             ready,
    output wire [WIDTH-1:0] data
);
  localparam int A = $clog2(DEPTH);
  reg [31:0] address, left, next_address, next_left;
  reg [A:0] promised;  // words asked for or in the FIFO
  wire [31:0] burst = left < BURST ? left : BURST;
  wire room = {1'b0, promised} + {1'b0, burst[A:0]} <= DEPTH[A+1:0];
  wire ask = left != 32'd0 && room && (!request || request_ready);
  wire take = valid && ready;
  always @(posedge clk) begin
    if (rst) begin
      request <= 1'b0;
      left <= 32'd0;
      next_left <= 32'd0;
      promised <= {A + 1{1'b0}};
    end else begin
      if (start) begin
        {address, left} <= {base0, count0};
        {next_address, next_left} <= {base1, count1};
      end else if (ask) begin
        address <= address + burst;
        left <= left - burst;
      end else if (left == 32'd0) begin
        {address, left} <= {next_address, next_left};
        if (!again) next_left <= 32'd0;
      end
      if (ask) request <= 1'b1;
      else if (request_ready) request <= 1'b0;
      promised <= promised + (ask ? burst[A:0] : {A + 1{1'b0}}) - {{A{1'b0}}, take};
    end
    if (ask) {request_address, request_words} <= {address, burst[7:0]};
  end

  // The FIFO: a memory of two cycles is too slow for its head, so the head is a register.
  (* no_rw_check *) reg [WIDTH-1:0] words[0:DEPTH-1];
  reg [A-1:0] tail, head;
  reg [A:0] held;
  reg [WIDTH-1:0] out;
  reg full;
  wire move = held != {A + 1{1'b0}} && (!full || ready);
  assign valid = full;
  assign data  = out;
  always @(posedge clk) begin
    if (response) words[tail] <= response_data;
    if (move) out <= words[head];
    if (rst) {tail, head, held, full} <= {3 * A + 2{1'b0}};
    else begin
      if (response) tail <= tail + 1'b1;
      if (move) head <= head + 1'b1;
      held <= held + {{A{1'b0}}, response} - {{A{1'b0}}, move};
      full <= move || (full && !ready);
    end
  end
endmodule
