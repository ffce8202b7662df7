// The place of the largest sum; of equal ones the first.  LANES sums of 24 bits a cycle.
module argmax #(
    parameter int LANES = 8,
    localparam int LEVELS = $clog2(LANES)
) (
    input  wire                clk,
    input  wire                clear,
    input  wire                valid,
    input  wire                last,      // of the sums: `tail` lanes count (0: all)
    input  wire [         7:0] tail,
    input  wire [        15:0] index,     // of the word
    input  wire [LANES*24-1:0] sums,
    output reg  [        31:0] place
);
  // A term is {counts, sum + 2^23, lanes behind it}: the largest is the largest sum, then the first.
  localparam int W = 25 + LEVELS;
  wire [LANES*W-1:0] terms;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      localparam [31:0] BEHIND = LANES - 1 - i;
      wire counts = !last || tail == 8'd0 || i[7:0] < tail;
      assign terms[W*i+:W] = {counts, ~sums[24*i+23], sums[24*i+:23], BEHIND[LEVELS-1:0]};
    end
  endgenerate
  wire [W-1:0] winner;
  max_tree #(
      .N(LANES),
      .W(W)
  ) tree (
      .clk(clk),
      .terms(terms),
      .y(winner)
  );
  reg [LEVELS-1:0] valid_at;
  reg [LEVELS*16-1:0] index_at;
  reg [24:0] best;
  wire [15:0] word = index_at[(LEVELS-1)*16+:16];
  wire [31:0] here = {16'd0, word} * LANES + {{32 - LEVELS{1'b0}}, ~winner[LEVELS-1:0]};
  generate
    if (LEVELS == 1) begin : g_one
      always @(posedge clk) {valid_at, index_at} <= {valid, index};
    end else begin : g_more
      always @(posedge clk) begin
        valid_at <= {valid_at[LEVELS-2:0], valid};
        index_at <= {index_at[(LEVELS-1)*16-1:0], index};
      end
    end
  endgenerate
  always @(posedge clk)
    if (clear) {best, place} <= 57'd0;
    else if (valid_at[LEVELS-1] && winner[W-1:LEVELS] > best)
      {best, place} <= {winner[W-1:LEVELS], here};
endmodule
