// A memory on chip behind the port of a memory_reader: constants in banks of 2,048 words.
//
// A word comes six cycles after its burst was asked for, then one each cycle.
module block_memory #(
    parameter int WIDTH = 32,
    parameter int BANKS = 2,
    parameter NAME = "weights"  // of the files NAME_0.hex, NAME_1.hex, ...
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             request,
    output wire             request_ready,
    /* verilator lint_off UNUSEDSIGNAL */
    input  wire [     31:0] request_address,
    /* verilator lint_on UNUSEDSIGNAL */
    input  wire [      7:0] request_words,
    output wire             response,
    output reg  [WIDTH-1:0] response_data
);
  localparam int WORDS = 2048;
  localparam int A = $clog2(WORDS);
  reg [31-A:0] bank, bank1, bank2, bank3;
  reg [A-1:0] address;
  reg [7:0] left;
  reg [5:1] reading;
  assign request_ready = left <= 8'd1;
  assign response = reading[5];
  always @(posedge clk) begin
    if (rst) left <= 8'd0;
    else if (request && request_ready) left <= request_words;
    else if (left != 8'd0) left <= left - 8'd1;
    if (request_ready) {bank, address} <= request_address;
    else {bank, address} <= {bank, address} + 1'b1;
    reading <= rst ? 5'd0 : {reading[4:1], left != 8'd0};
    {bank3, bank2, bank1} <= {bank2, bank1, bank};
  end

  // Each bank has its own address, and gives zero where it is not the one that is read.
  wire [(BANKS+1)*WIDTH-1:0] merged;
  assign merged[WIDTH-1:0] = {WIDTH{1'b0}};
  genvar b;
  generate
    for (b = 0; b < BANKS; b = b + 1) begin : g_bank
      localparam [31-A:0] THIS = b;
      (* keep *) reg [A-1:0] place;
      wire [WIDTH-1:0] found;
      reg [WIDTH-1:0] chosen;
      rom #(
          .WIDTH(WIDTH),
          .WORDS(WORDS),
          .FILE ($sformatf("%s_%0d.hex", NAME, b))
      ) words (
          .clk(clk),
          .address(place),
          .data(found)
      );
      always @(posedge clk) begin
        place  <= address;
        chosen <= bank3 == THIS ? found : {WIDTH{1'b0}};
      end
      assign merged[(b+1)*WIDTH+:WIDTH] = merged[b*WIDTH+:WIDTH] | chosen;
    end
  endgenerate
  always @(posedge clk) response_data <= merged[BANKS*WIDTH+:WIDTH];
endmodule
