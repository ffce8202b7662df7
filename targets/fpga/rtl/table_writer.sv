// Writes the 27 signed sums of three activations into every table; or of two in every other one.
//
// Entry (w0+1) + 3(w1+1) + 9(w2+1) is w0 x0 + w1 x1 + w2 x2.  From one entry to the next a single w
// changes by one: a path through the 3 x 3 x 3 grid that begins beside its centre, where the sum is
// zero.  So a table costs one accumulator and a choice among its three activations, and the place in
// the path is shared by all.  A table of two has its nine sums after nine steps; two more lead to the
// last of them, x0 + x1, which stays: it is in entry 8 and, for weight_decode, in 9 to 14.
//
// start in cycle 0: x is read in cycles 2 to 28, `write` is high in cycles 4 to 30.
module table_writer #(
    parameter int TABLES = 8,
    parameter int TWOS = 0  // 1: tables 1, 3, 5, ... are of two, x2 is zero
) (
    input  wire                 clk,
    input  wire                 rst,
    input  wire                 start,
    output wire                 last,     // in cycle 27
    input  wire [TABLES*24-1:0] x,
    output wire                 write,
    output reg  [          4:0] address,
    output wire [TABLES*10-1:0] entries
);
  reg [4:0] count;
  reg running;
  reg [1:0] which;  // the activation whose weight changes,
  reg minus;        // from w to w - 1,
  reg [4:0] to;     // which leads to this entry
  always @* begin
    case (count)
      5'd0: {which, minus, to} = {2'd2, 1'b1, 5'd4};
      5'd1: {which, minus, to} = {2'd1, 1'b0, 5'd7};
      5'd2: {which, minus, to} = {2'd0, 1'b0, 5'd8};
      5'd3: {which, minus, to} = {2'd1, 1'b1, 5'd5};
      5'd4: {which, minus, to} = {2'd1, 1'b1, 5'd2};
      5'd5: {which, minus, to} = {2'd0, 1'b1, 5'd1};
      5'd6: {which, minus, to} = {2'd0, 1'b1, 5'd0};
      5'd7: {which, minus, to} = {2'd1, 1'b0, 5'd3};
      5'd8: {which, minus, to} = {2'd1, 1'b0, 5'd6};
      5'd9: {which, minus, to} = {2'd2, 1'b0, 5'd15};
      5'd10: {which, minus, to} = {2'd1, 1'b1, 5'd12};
      5'd11: {which, minus, to} = {2'd1, 1'b1, 5'd9};
      5'd12: {which, minus, to} = {2'd0, 1'b0, 5'd10};
      5'd13: {which, minus, to} = {2'd1, 1'b0, 5'd13};
      5'd14: {which, minus, to} = {2'd1, 1'b0, 5'd16};
      5'd15: {which, minus, to} = {2'd0, 1'b0, 5'd17};
      5'd16: {which, minus, to} = {2'd1, 1'b1, 5'd14};
      5'd17: {which, minus, to} = {2'd1, 1'b1, 5'd11};
      5'd18: {which, minus, to} = {2'd2, 1'b0, 5'd20};
      5'd19: {which, minus, to} = {2'd1, 1'b0, 5'd23};
      5'd20: {which, minus, to} = {2'd1, 1'b0, 5'd26};
      5'd21: {which, minus, to} = {2'd0, 1'b1, 5'd25};
      5'd22: {which, minus, to} = {2'd1, 1'b1, 5'd22};
      5'd23: {which, minus, to} = {2'd1, 1'b1, 5'd19};
      5'd24: {which, minus, to} = {2'd0, 1'b1, 5'd18};
      5'd25: {which, minus, to} = {2'd1, 1'b0, 5'd21};
      5'd26: {which, minus, to} = {2'd1, 1'b0, 5'd24};
      default: {which, minus, to} = {2'd0, 1'b0, 5'd0};
    endcase
  end
  assign last = running && count == 5'd26;

  // Three stages: the step; the activation or its complement; the sum.
  reg [2:0] moving;
  reg clear, minus1, minus2;
  reg [1:0] which1;
  reg [4:0] to1, to2;
  reg two_minus1, two_minus2;
  (* fsm_encoding = "none" *) reg [1:0] two_which1, two_which2;  // yosys would see a machine
  assign write = moving[2];
  always @(posedge clk) begin
    running <= !rst && (start || (running && !last));
    count   <= start ? 5'd0 : count + 5'd1;
    moving  <= rst ? 3'd0 : {moving[1:0], running};
    clear   <= running && count == 5'd0;
    {which1, minus1, to1} <= {which, minus, to};
    {minus2, to2} <= {minus1, to1};
    two_which1 <= count < 5'd9 ? which : count < 5'd11 ? 2'd0 : 2'd2;
    two_minus1 <= count < 5'd9 && minus;
    {two_which2, two_minus2} <= {two_which1, two_minus1};
    address <= to2;
  end

  genvar t;
  generate
    for (t = 0; t < TABLES; t = t + 1) begin : g_table
      localparam bit TWO = TWOS != 0 && t % 2 == 1;
      wire [7:0] x0 = x[24*t+:8], x1 = x[24*t+8+:8], x2 = x[24*t+16+:8];
      wire [7:0] addend;
      wire carry;
      if (TWO) begin : g_two  // little enough to be a part of the sum
        assign carry  = two_minus2;
        assign addend = (two_which2 == 2'd0 ? x0 : two_which2 == 2'd1 ? x1 : 8'd0) ^ {8{carry}};
      end else begin : g_three
        reg [7:0] chosen;
        always @(posedge clk)
          chosen <= (which1 == 2'd0 ? x0 : which1 == 2'd1 ? x1 : x2) ^ {8{minus1}};
        assign carry  = minus2;
        assign addend = chosen;
      end
      reg [9:0] entry;
      wire unused;
      wire [9:0] sum;
      assign {sum, unused} = {entry, 1'b1} + {addend[7], addend[7], addend, carry};
      always @(posedge clk) begin
        if (clear) entry <= 10'd0;
        else entry <= sum;
      end
      assign entries[10*t+:10] = entry;
    end
  endgenerate
endmodule
