// The words of a pass over a vector: one begins each cycle, and what became of the others.
//
// `at` is how many cycles ago a word began, `r` how many cycles ago it went into the requantiser.
module pass_words #(
    parameter int LANES = 8,
    localparam int LONG = 15 + $clog2(LANES),
    localparam int LAST = 44
) (
    input  wire                clk,
    input  wire                rst,
    input  wire [       127:0] row,
    input  wire                start,
    input  wire [         2:0] pass,
    output reg                 done,
    // constants, in passes that take one with each word
    input  wire                c_valid,
    output wire                c_ready,
    output reg                 streams,
    output reg                 finishes,   // a pass over sums
    output reg  [        15:0] index,
    output reg  [      LONG:1] at,
    output wire                last_at_3,
    output reg  [ 14*16+15:16] index_at,   // the index, 1 to 14 cycles ago
    output reg  [      LAST:1] r,
    output reg  [LAST*16-1:16] r_index_at
);
  program_row::fields fields;
  assign fields = row;
  // What a row and its pass say of it is found a cycle after they are there, before the first word.
  reg scales;
  reg [15:0] last_index;
  always @(posedge clk) begin
    streams <= pass == program_row::PASS_EMBED
        || (fields.gain && (pass == program_row::PASS_LARGEST
            || (pass == program_row::PASS_FINISH && fields.kind == program_row::FORGET)));
    finishes <= pass == program_row::PASS_FINISH;
    scales <= pass != program_row::PASS_FINISH && pass != program_row::PASS_APPLY;
    last_index <= fields.words - 16'd1;
  end

  reg issuing;
  wire issue = issuing && (c_valid || !streams);
  wire issue_last = index == last_index;
  assign c_ready = issuing && streams;
  reg [LONG:1] last_at;
  assign last_at_3 = last_at[3];
  always @(posedge clk) begin
    issuing <= !rst && (start || (issuing && !(issue && issue_last)));
    if (start) index <= 16'd0;
    else if (issue) index <= index + 16'd1;
    at <= rst ? {LONG{1'b0}} : {at[LONG-1:1], issue};
    last_at <= {last_at[LONG-1:1], issue_last};
    index_at <= {index_at[13*16+15:16], index};
  end

  wire r_valid = finishes ? at[3] : !scales && at[10];
  wire r_last = finishes ? last_at[3] : last_at[10];
  wire [15:0] r_index = finishes ? index_at[16*3+:16] : index_at[16*10+:16];
  reg [LAST:1] r_last_at;
  always @(posedge clk) begin
    r <= rst ? {LAST{1'b0}} : {r[LAST-1:1], r_valid};
    r_last_at <= {r_last_at[LAST-1:1], r_last};
    r_index_at <= {r_index_at[LAST*16-17:16], r_index};
  end
  always @(posedge clk)
    done <= !rst && (scales ? at[LONG-1] && last_at[LONG-1] : r[LAST-1] && r_last_at[LAST-1]);
endmodule
