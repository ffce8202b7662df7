// A row's copy of the tables: 32 sums of 10 bits in each, every table read under its own address.
//
// A RAM32M16 of UltraScale+ is eight look-up tables with one write port: seven of them read two bits
// each, under addresses of their own.  yosys gives a table such memories alone, which leaves two of
// seven unused; so with MMC_XILINX they are named, and the tables lie in them end to end.
module lookup_tables #(
    parameter int TABLES = 8
) (
    input  wire                 clk,
    input  wire                 write,
    input  wire [          4:0] write_address,
    input  wire [TABLES*10-1:0] entries,
    input  wire [ TABLES*5-1:0] addresses,
    output reg  [TABLES*10-1:0] found           // a cycle later
);
  genvar i;
`ifdef MMC_XILINX
  localparam int PAIRS = 5 * TABLES;  // of bits
  localparam int MEMORIES = (PAIRS + 6) / 7;
  wire [MEMORIES*14-1:0] in = {{MEMORIES * 14 - TABLES * 10{1'b0}}, entries};
  wire [MEMORIES*14-1:0] out;
  wire [MEMORIES*35-1:0] places;
  always @(posedge clk) found <= out[TABLES*10-1:0];
  generate
    for (i = 0; i < 7 * MEMORIES; i = i + 1) begin : g_pair
      assign places[5*i+:5] = i < PAIRS ? addresses[5*(i%PAIRS/5)+:5] : 5'd0;
    end
    for (i = 0; i < MEMORIES; i = i + 1) begin : g_memory
      RAM32M16 memory (
          .WCLK(clk),
          .WE(write),
          .ADDRA(places[35*i+:5]),
          .ADDRB(places[35*i+5+:5]),
          .ADDRC(places[35*i+10+:5]),
          .ADDRD(places[35*i+15+:5]),
          .ADDRE(places[35*i+20+:5]),
          .ADDRF(places[35*i+25+:5]),
          .ADDRG(places[35*i+30+:5]),
          .ADDRH(write_address),
          .DIA(in[14*i+:2]),
          .DIB(in[14*i+2+:2]),
          .DIC(in[14*i+4+:2]),
          .DID(in[14*i+6+:2]),
          .DIE(in[14*i+8+:2]),
          .DIF(in[14*i+10+:2]),
          .DIG(in[14*i+12+:2]),
          .DIH(2'b00),
          .DOA(out[14*i+:2]),
          .DOB(out[14*i+2+:2]),
          .DOC(out[14*i+4+:2]),
          .DOD(out[14*i+6+:2]),
          .DOE(out[14*i+8+:2]),
          .DOF(out[14*i+10+:2]),
          .DOG(out[14*i+12+:2]),
          .DOH()
      );
    end
  endgenerate
`else
  generate
    for (i = 0; i < TABLES; i = i + 1) begin : g_table
      (* ram_style = "distributed" *) reg [9:0] sum_of[0:31];
      always @(posedge clk) begin
        if (write) sum_of[write_address] <= entries[10*i+:10];
        found[10*i+:10] <= sum_of[addresses[5*i+:5]];
      end
    end
  endgenerate
`endif
endmodule
