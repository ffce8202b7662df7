// y[m] = sum over k of w[m, k] x[k], w in {-1, 0, 1}: P rows and S columns a cycle, by table lookup.
//
// The columns are cut into slices of S.  For each slice every table is written with the sums of its
// three (two) activations, then the weights of all rows pass, P rows at a time (a row group): a code
// is the address in its row's copy of the table.  The sums of a slice are added in `sums`, which holds a
// word of P numbers for each row group and is read when the engine is idle.
//
//   x memory -> window of S -> table_writer -> engine_row [P]: tables, adder tree, + sums -> sums
//                              weights -> weight_decode --^
//
// Cycles from start to idle: see `product_cycles` in targets/fpga/cycles.py.
module ternary_engine #(
    parameter int P = 16,        // rows
    parameter int GROUPS = 8,    // groups of weights in a row: S = 3 GROUPS, 5 GROUPS for CODEC 2
    parameter int CODEC = 1,     // see weight_decode
    parameter int LANES = 8,     // activations that are written at a time; divides S
    parameter int X_WORDS = 256, // LANES activations each
    parameter int Y_WORDS = 256, // row groups
    localparam int BITS = program_row::group_bits(CODEC),
    localparam int S = CODEC == 2 ? 5 * GROUPS : 3 * GROUPS,
    localparam int TABLES = CODEC == 2 ? 2 * GROUPS : GROUPS
) (
    input  wire                       clk,
    input  wire                       rst,
    // activations, while idle
    input  wire                       x_write,
    input  wire [$clog2(X_WORDS)-1:0] x_address,
    input  wire [        LANES*8-1:0] x_data,
    // a product
    input  wire                       start,
    input  wire [               15:0] slices,
    input  wire [               15:0] row_groups,
    output wire                       idle,
    // weights, slice by slice, row group by row group
    input  wire                       w_valid,
    output wire                       w_ready,
    input  wire [  P*GROUPS*BITS-1:0] w_data,
    // sums, while idle, two cycles later
    input  wire [$clog2(Y_WORDS)-1:0] y_address,
    output wire [           P*24-1:0] y_data
);
  localparam int WORDS = S / LANES;  // of the x memory in a slice
  localparam int XA = $clog2(X_WORDS);
  localparam int YA = $clog2(Y_WORDS);
  function automatic integer levels(input integer terms);  // of an adder tree
    levels = 0;
    while (terms > 2) begin
      terms  = terms / 3 + terms % 3;
      levels = levels + 1;
    end
  endfunction
  localparam int DEPTH = levels(TABLES);

  // Bits of a sum: of X_WORDS words of -128, and whatever a number of the adder tree could be.
  localparam int LONGEST = 128 * LANES * X_WORDS;
  localparam int WIDEST = 384 * 3 ** DEPTH;
  localparam int W = 1 + $clog2((LONGEST > WIDEST ? LONGEST : WIDEST) + 1);

  // Control: the window is filled, tables are written, weights pass, the pipeline runs dry.
  reg active, draining, filled, writing, streaming;
  reg [XA:0] slices_left;
  reg [YA:0] groups_left;
  reg [YA-1:0] group;
  reg last_slice, last_group;  // what the counters say, found a cycle before
  reg [2+DEPTH:0] drain;
  wire last_step;
  wire accept = w_valid && w_ready;
  wire slice_done = accept && last_group;
  wire all_done = slice_done && last_slice;
  wire write_tables = active && filled && !writing && !streaming;
  assign w_ready = streaming;
  assign idle = !active && !draining;

  // The tables can be read three cycles behind the choice of the last step: table_writer's three
  // stages and the one on the way to the rows, less the one of weight_decode.
  reg [2:0] settle;
  always @(posedge clk) begin
    if (rst) {active, draining, writing, streaming, settle} <= 7'd0;
    else begin
      active <= start || (active && !all_done);
      writing <= write_tables || (writing && !settle[2]);
      settle <= {settle[1:0], last_step};
      streaming <= settle[2] || (streaming && !slice_done);
      draining <= all_done || (draining && !drain[2+DEPTH]);
    end
    drain <= {drain[1+DEPTH:0], all_done};
    if (start) begin
      slices_left <= slices[XA:0];
      last_slice  <= slices == 16'd1;
    end else if (slice_done) begin
      slices_left <= slices_left - 1'b1;
      last_slice  <= slices_left == 2;
    end
    if (start || slice_done) begin
      group <= {YA{1'b0}};
      groups_left <= row_groups[YA:0];
      last_group <= row_groups == 16'd1;
    end else if (accept) begin
      group <= group + 1'b1;
      groups_left <= groups_left - 1'b1;
      last_group <= groups_left == 2;
    end
  end

  // The x memory and the window of S activations, filled while weights of the slice sums_read pass.
  wire [LANES*8-1:0] x_word;
  reg [XA-1:0] x_next;
  localparam int WA = $clog2(WORDS + 1);
  reg [WA-1:0] words_left;
  reg [1:0] shifting;
  reg [S*8-1:0] window;
  wire fetching = words_left != {WA{1'b0}};
  vector_memory #(
      .WIDTH(LANES * 8),
      .WORDS(X_WORDS)
  ) x_memory (
      .clk(clk),
      .write(x_write),
      .write_address(x_address),
      .write_data(x_data),
      .read_address(x_next),
      .read_data(x_word)
  );
  always @(posedge clk) begin
    if (shifting[1]) window <= {x_word, window[S*8-1:LANES*8]};
    shifting <= rst ? 2'd0 : {shifting[0], fetching};
    if (start) x_next <= {XA{1'b0}};
    else if (fetching) x_next <= x_next + 1'b1;
    if (rst) words_left <= {WA{1'b0}};
    else if (start || settle[0]) words_left <= WORDS[WA-1:0];
    else if (fetching) words_left <= words_left - 1'b1;
    if (start || settle[0] || rst) filled <= 1'b0;
    else if (!fetching && shifting == 2'd0) filled <= 1'b1;
  end

  wire [TABLES*24-1:0] table_x;
  genvar g, p;
  generate
    for (g = 0; g < GROUPS; g = g + 1) begin : g_columns
      if (CODEC == 2) begin : g_five
        assign table_x[48*g+:48] = {8'd0, window[40*g+:40]};
      end else begin : g_three
        assign table_x[24*g+:24] = window[24*g+:24];
      end
    end
  endgenerate

  wire table_write;
  wire [4:0] table_address;
  wire [TABLES*10-1:0] entries;
  table_writer #(
      .TABLES(TABLES),
      .TWOS  (CODEC == 2 ? 1 : 0)
  ) writer (
      .clk(clk),
      .rst(rst),
      .start(write_tables),
      .last(last_step),
      .x(table_x),
      .write(table_write),
      .address(table_address),
      .entries(entries)
  );

  wire [P*TABLES*5-1:0] addresses;
  weight_decode #(
      .GROUPS(P * GROUPS),
      .CODEC (CODEC)
  ) decode (
      .clk(clk),
      .word(w_data),
      .addresses(addresses)
  );

  // What goes with a row group down the pipeline: decode, lookup, adder tree, sum of the slices.
  // A row group comes again 31 cycles later at the earliest, when its sum has long been written.
  localparam int STAGES = 2 + DEPTH;
  reg [STAGES:0] valid;
  reg [(STAGES+1)*YA-1:0] places;
  wire [(STAGES+2)*YA-1:0] trail = {places, group};
  wire [YA-1:0] add_place = trail[DEPTH*YA+:YA];
  wire [YA-1:0] put_place = trail[(STAGES+1)*YA+:YA];
  reg later_slice;  // than the first: what is there is added to
  reg [STAGES:0] later;
  always @(posedge clk) begin
    valid <= rst ? {STAGES + 1{1'b0}} : {valid[STAGES-1:0], accept};
    places <= trail[(STAGES+1)*YA-1:0];
    if (start) later_slice <= 1'b0;
    else if (slice_done) later_slice <= 1'b1;
    later <= {later[STAGES-1:0], later_slice};
  end

  wire [P*W-1:0] sums_read;
  wire [P*W-1:0] sums_next;
  vector_memory #(
      .WIDTH(P * W),
      .WORDS(Y_WORDS)
  ) sums (
      .clk(clk),
      .write(valid[STAGES]),
      .write_address(put_place),
      .write_data(sums_next),
      .read_address(idle ? y_address : add_place),
      .read_data(sums_read)
  );

  reg [TABLES*10-1:0] entries_1;
  always @(posedge clk) entries_1 <= entries;

  generate
    for (p = 0; p < P; p = p + 1) begin : g_row
      assign y_data[24*p+:24] = {{24 - W{sums_read[W*p+W-1]}}, sums_read[W*p+:W]};
      engine_row #(
          .TABLES(TABLES),
          .W(W)
      ) row (
          .clk(clk),
          .table_write(table_write),
          .table_address(table_address),
          .entries(entries_1),
          .addresses(addresses[p*TABLES*5+:TABLES*5]),
          .later(later[DEPTH]),
          .old(sums_read[W*p+:W]),
          .sum(sums_next[W*p+:W])
      );
    end
  endgenerate
endmodule
