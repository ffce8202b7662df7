// A row of the engine: its copy of the tables, the sum of what it finds there, and of the slices.
module engine_row #(
    parameter int TABLES = 8,
    parameter int W = 24  // bits of a sum of slices
) (
    input  wire                 clk,
    input  wire                 table_write,
    input  wire [          4:0] table_address,
    input  wire [TABLES*10-1:0] entries,        // a cycle behind table_write
    input  wire [ TABLES*5-1:0] addresses,
    input  wire                 later,          // a slice but the first: a cycle before `old`
    input  wire [        W-1:0] old,
    output reg  [        W-1:0] sum
);
  localparam int LARGEST = 384;  // three times 128
  localparam int LEFT = 2 - TABLES % 2;
  // Copies of what goes to every table of a row: such nets reach far, they must not fan out more.
  (* keep *) reg write;
  (* keep *) reg [4:0] address;
  (* keep *) reg with_old;
  always @(posedge clk) begin
    write    <= table_write;
    address  <= table_address;
    with_old <= later;
  end
  wire [TABLES*10-1:0] found;
  lookup_tables #(
      .TABLES(TABLES)
  ) tables (
      .clk(clk),
      .write(write),
      .write_address(address),
      .entries(entries),
      .addresses(addresses),
      .found(found)
  );
  wire [LEFT*W-1:0] left;
  ternary_adder_tree #(
      .N(TABLES),
      .LARGEST(LARGEST),
      .Y(W)
  ) tree (
      .clk(clk),
      .terms(found),
      .y(left)
  );
  wire [2*W-1:0] both = {{2 * W - LEFT * W{1'b0}}, left};
  wire [W-1:0] next;
  ternary_adder #(
      .W(W)
  ) add (
      .a(both[W-1:0]),
      .b(both[2*W-1:W]),
      .c(old),
      .with_c(with_old),
      .y(next)
  );
  always @(posedge clk) sum <= next;
endmodule
