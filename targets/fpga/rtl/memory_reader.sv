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
  // A burst takes three cycles to ask for: what is known of `left` and `promised` is a cycle late.
  localparam [1:0] COUNT = 2'd0, CHOOSE = 2'd1, ASK = 2'd2;
  reg [1:0] step;
  reg none, few, room;
  reg [7:0] chosen;
  wire [31:0] burst = {24'd0, chosen};
  wire ask = step == ASK && room && (!request || request_ready);
  wire take = valid && ready;
  always @(posedge clk) begin
    none <= left == 32'd0;
    few  <= left < BURST;
    room <= promised <= DEPTH[A:0] - BURST[A:0];
    if (rst) begin
      request <= 1'b0;
      left <= 32'd0;
      next_left <= 32'd0;
      promised <= {A + 1{1'b0}};
      step <= COUNT;
    end else begin
      if (start) begin
        {address, left} <= {base0, count0};
        {next_address, next_left} <= {base1, count1};
        step <= COUNT;
      end else
        case (step)
          COUNT: step <= CHOOSE;
          CHOOSE: begin
            chosen <= few ? left[7:0] : BURST[7:0];
            step   <= none ? COUNT : ASK;
            if (none) begin
              {address, left} <= {next_address, next_left};
              if (!again) next_left <= 32'd0;
            end
          end
          default:
          if (ask) begin
            address <= address + burst;
            left <= left - burst;
            step <= COUNT;
          end
        endcase
      if (ask) request <= 1'b1;
      else if (request_ready) request <= 1'b0;
      promised <= promised + (ask ? burst[A:0] : {A + 1{1'b0}}) - {{A{1'b0}}, take};
    end
    if (ask) {request_address, request_words} <= {address, chosen};
  end

  // The FIFO: a memory of two cycles is too slow for its head, so the head is a register.
`ifdef MMC_ECP5
  (* ram_style = "distributed" *)  // its blocks have no output register here: 4.3 ns
`endif
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
