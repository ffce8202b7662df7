// A memory of constants: data two cycles after the address.
//
// The second of the two registers is that of the block RAM itself on an ECP5, which yosys does not
// use: targets/fpga/synthesis.py switches it on in every memory of this name.
module rom #(
    parameter int WIDTH = 64,
    parameter int WORDS = 64,
    parameter FILE = "rom.hex"
) (
    input  wire                     clk,
    input  wire [$clog2(WORDS)-1:0] address,
    output wire [        WIDTH-1:0] data
);
`ifdef MMC_ECP5
  (* rom_style = "block", ram_style = "block" *)
`endif
  reg [WIDTH-1:0] registered_words[0:WORDS-1];
  initial $readmemh(FILE, registered_words);
  reg [WIDTH-1:0] found;
  always @(posedge clk) found <= registered_words[address];
`ifdef MMC_ECP5
  assign data = found;
`else
  reg [WIDTH-1:0] out;
  always @(posedge clk) out <= found;
  assign data = out;
`endif
endmodule
