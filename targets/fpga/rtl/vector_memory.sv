// A memory of words with one write port and one read port; data two cycles after the address.
//
// Nobody reads a word in the cycle in which it is written.  With MMC_ECP5 blocks of 512 words of 36
// bits are named instead of inferred, for yosys does not use their output registers.
module vector_memory #(
    parameter int WIDTH = 64,
    parameter int WORDS = 64
) (
    input  wire                     clk,
    input  wire                     write,
    input  wire [$clog2(WORDS)-1:0] write_address,
    input  wire [        WIDTH-1:0] write_data,
    input  wire [$clog2(WORDS)-1:0] read_address,
    output wire [        WIDTH-1:0] read_data
);
`ifdef MMC_ECP5
  localparam int BLOCKS = WORDS > 32 && WORDS <= 512 ? (WIDTH + 35) / 36 : 0;
`else
  localparam int BLOCKS = 0;
`endif
  generate
    if (BLOCKS == 0) begin : g_inferred
      (* no_rw_check *) reg [WIDTH-1:0] words[0:WORDS-1];
      reg [WIDTH-1:0] found, out;
      always @(posedge clk) begin
        if (write) words[write_address] <= write_data;
        found <= words[read_address];
        out   <= found;
      end
      assign read_data = out;
    end else begin : g_blocks
      wire [BLOCKS*36-1:0] in = write_data;
      wire [BLOCKS*36-1:0] out;
      genvar b;
      for (b = 0; b < BLOCKS; b = b + 1) begin : g_block
        ecp5_block block (
            .clk(clk),
            .write(write),
            .write_address({9{1'b0}} | write_address),
            .write_data(in[36*b+:36]),
            .read_address({9{1'b0}} | read_address),
            .read_data(out[36*b+:36])
        );
      end
      assign read_data = out[WIDTH-1:0];
    end
  endgenerate
endmodule
