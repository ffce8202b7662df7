// One token of a MatMul-free language model: the program's rows over one vector unit and one engine.
//
// Vectors lie in words of LANES numbers: x (residual), p (gated product), g (gate), n (normed),
// f (forget gate), a (what gates: silu of gate or state), h (recurrent state of every layer).
// Constants (the embedding's row, then gains and lower bounds in the order of their use) and weights
// come through a memory_reader each, far ahead.
//
//   x, p, g, n --> norm_quantise --> n | q of the engine | w --.
//                      engine's sums ---------------------------+--> requantise --> gates --> x, p, ...
module token_engine #(
    parameter int P = 16,
    parameter int GROUPS = 8,
    parameter int CODEC = 1,
    parameter int LANES = 8,
    parameter int X_WORDS = 32,    // words of x
    parameter int P_WORDS = 96,    // words of p and a: the longest of the inner vectors
    parameter int F_WORDS = 32,    // words of f and g
    parameter int H_WORDS = 192,   // words of h: all layers
    parameter int Q_WORDS = 100,   // words of the engine's activations
    parameter int Y_WORDS = 512,   // row groups of the tallest matrix
    parameter int ROWS = 64,       // of the program
    parameter int BURST = 16,
    parameter int AHEAD = 64,      // words of weights that are read ahead
    localparam int BITS = CODEC == 0 ? 6 : CODEC == 1 ? 5 : 8,
    localparam int WEIGHTS = P * GROUPS * BITS
) (
    input  wire                       clk,
    input  wire                       rst,
    input  wire                       start,
    input  wire [               31:0] token,
    input  wire                       fresh,            // a sequence begins: h is zero
    output wire                       busy,
    output wire [               31:0] likeliest,
    // the image, in words of its port
    input  wire [               31:0] weights_base,
    input  wire [               31:0] weights_words,
    input  wire [               31:0] embedding_base,
    input  wire [               31:0] constants_base,
    input  wire [               31:0] constants_words,
    output wire                       w_request,
    input  wire                       w_request_ready,
    output wire [               31:0] w_request_address,
    output wire [                7:0] w_request_words,
    input  wire                       w_response,
    input  wire [        WEIGHTS-1:0] w_response_data,
    output wire                       c_request,
    input  wire                       c_request_ready,
    output wire [               31:0] c_request_address,
    output wire [                7:0] c_request_words,
    input  wire                       c_response,
    input  wire [       LANES*16-1:0] c_response_data,
    // logits, while not busy: (sum * factor) >> (right + 1), two cycles behind the address
    input  wire [$clog2(Y_WORDS)-1:0] y_address,
    output wire [           P*24-1:0] y_data,
    output wire [               15:0] factor,
    output wire [                5:0] right,
    // for who measures
    output wire                       w_wanted,         // the engine would take weights
    output wire                       w_there
);
  localparam int LEVELS = $clog2(LANES);
  localparam [3:0] NORM = 4'd2;
  localparam [2:0] P_EMBED = 3'd0, P_LARGEST = 3'd1, P_NORM = 3'd2, P_QUANTISE = 3'd3;
  localparam [2:0] P_APPLY = 3'd4, P_FINISH = 3'd5;
  localparam [3:0] STORE = 4'd0, FORGET = 4'd1, STATE = 4'd2, RESIDUAL = 4'd3, GATE = 4'd4;
  localparam [3:0] GATED = 4'd5, HEAD = 4'd6;

  // The row and its fields.
  wire [127:0] row;
  wire [3:0] operation = row[3:0];
  wire [3:0] kind = row[7:4];
  wire [1:0] source = row[9:8];         // of a norm: x, p, g
  wire gain = row[10];
  wire [3:0] fraction = row[14:11];
  wire [15:0] words = row[31:16];
  wire [15:0] offset = row[47:32];      // word of the first sum
  wire [15:0] base = row[63:48];        // word of h
  wire [15:0] slices = row[79:64];
  wire [15:0] row_groups = row[95:80];
  wire [15:0] row_m = row[111:96];
  wire signed [11:0] row_e = row[123:112];
  wire [7:0] tail = row[55:48];         // of the argmax

  wire pass_start, pass_done, scalar_start, scalar_busy, engine_start, engine_idle;
  wire [2:0] pass, scalar_command;
  sequencer #(
      .ROWS(ROWS)
  ) sequence_of_rows (
      .clk(clk),
      .rst(rst),
      .start(begun[1]),
      .busy(sequencing),
      .row(row),
      .pass_start(pass_start),
      .pass(pass),
      .pass_done(pass_done),
      .scalar_start(scalar_start),
      .scalar_command(scalar_command),
      .scalar_busy(scalar_busy),
      .engine_start(engine_start),
      .engine_idle(engine_idle)
  );

  // A token: where its row of the embedding lies, then the readers and the sequencer begin.
  reg [1:0] begun;
  reg [31:0] embedding_row;
  reg cleared, streaming;
  wire sequencing;
  assign busy = sequencing || begun != 2'b00;
  always @(posedge clk) begin
    begun <= rst ? 2'b00 : {begun[0], start};
    streaming <= !rst && (streaming || begun[0]);
    if (start) cleared <= fresh;
    embedding_row <= embedding_base + token * X_WORDS;
  end

  wire c_valid, c_ready, w_valid, w_ready;
  wire [LANES*16-1:0] c_data;
  wire [WEIGHTS-1:0] w_data;
  assign w_wanted = w_ready;
  assign w_there  = w_valid;
  memory_reader #(
      .WIDTH(LANES * 16),
      .BURST(BURST),
      .DEPTH(64)
  ) constants (
      .clk(clk),
      .rst(rst),
      .start(begun[0]),
      .base0(embedding_row),
      .count0(X_WORDS),
      .base1(constants_base),
      .count1(constants_words),
      .again(1'b0),
      .request(c_request),
      .request_ready(c_request_ready),
      .request_address(c_request_address),
      .request_words(c_request_words),
      .response(c_response),
      .response_data(c_response_data),
      .valid(c_valid),
      .ready(c_ready),
      .data(c_data)
  );
  memory_reader #(
      .WIDTH(WEIGHTS),
      .BURST(BURST),
      .DEPTH(AHEAD)
  ) weights (
      .clk(clk),
      .rst(rst),
      .start(begun[0] && !streaming),
      .base0(weights_base),
      .count0(weights_words),
      .base1(weights_base),
      .count1(weights_words),
      .again(1'b1),
      .request(w_request),
      .request_ready(w_request_ready),
      .request_address(w_request_address),
      .request_words(w_request_words),
      .response(w_response),
      .response_data(w_response_data),
      .valid(w_valid),
      .ready(w_ready),
      .data(w_data)
  );

  // A pass: one word a cycle; `at` is how many cycles ago a word began.
  localparam int LONG = 15 + LEVELS;
  // What a row and its pass say of it is found a cycle after they are there, before the first word.
  reg streams, finishes, scales, forgets, wide;
  reg [15:0] last_index;
  always @(posedge clk) begin
    streams <= pass == P_EMBED || (gain && (pass == P_LARGEST || (pass == P_FINISH && kind == FORGET)));
    finishes <= pass == P_FINISH;
    scales <= pass != P_FINISH && pass != P_APPLY;
    forgets <= kind == FORGET;
    wide <= kind == RESIDUAL && pass == P_FINISH;
    last_index <= words - 16'd1;
  end
  reg issuing;
  reg [15:0] index;
  wire issue = issuing && (c_valid || !streams);
  wire issue_last = index == last_index;
  assign c_ready = issuing && streams;
  reg [LONG:1] at;
  reg [LONG:1] last_at;
  reg [14*16+15:16] index_at;
  always @(posedge clk) begin
    issuing <= !rst && (pass_start || (issuing && !(issue && issue_last)));
    if (pass_start) index <= 16'd0;
    else if (issue) index <= index + 16'd1;
    at <= rst ? {LONG{1'b0}} : {at[LONG-1:1], issue};
    last_at <= {last_at[LONG-1:1], issue_last};
    index_at <= {index_at[13*16+15:16], index};
  end

  // What comes behind the requantiser: `r` is how many cycles ago a number went into it.
  wire r_valid = finishes ? at[3] : !scales && at[10];
  wire r_last = finishes ? last_at[3] : last_at[10];
  wire [15:0] r_index = finishes ? index_at[16*3+:16] : index_at[16*10+:16];
  localparam int LAST = 44;
  reg [LAST:1] r, r_last_at;
  reg [LAST*16-1:16] r_index_at;
  always @(posedge clk) begin
    r <= rst ? {LAST{1'b0}} : {r[LAST-1:1], r_valid};
    r_last_at <= {r_last_at[LAST-1:1], r_last};
    r_index_at <= {r_index_at[LAST*16-17:16], r_index};
  end
  reg done;
  assign pass_done = done;
  always @(posedge clk)
    done <= !rst && (scales ? at[LONG-1] && last_at[LONG-1] : r[LAST-1] && r_last_at[LAST-1]);

  // Vectors.
  localparam int XA = $clog2(X_WORDS), PA = $clog2(P_WORDS), FA = $clog2(F_WORDS);
  localparam int HA = $clog2(H_WORDS), QA = $clog2(Q_WORDS), YA = $clog2(Y_WORDS);
  wire [LANES*27-1:0] x_read, p_read, h_read, x_written, w, y, state, gated;
  wire [LANES*18-1:0] n_read, g_read, a_read, silu_y, shown, narrow_w, narrow_y;
  wire [LANES*16-1:0] f_read, forget, gain_read;
  wire embeds = pass == P_EMBED && at[10];
  wire [15:0] x_place = embeds ? index_at[16*10+:16] : r_index_at[16*14+:16];
  wire [15:0] x_from = finishes ? r_index_at[16*9+:16] : index;
  vector_memory #(
      .WIDTH(LANES * 27),
      .WORDS(X_WORDS)
  ) x_memory (
      .clk(clk),
      .write(embeds || (finishes && kind == RESIDUAL && r[14])),
      .write_address(x_place[XA-1:0]),
      .write_data(x_written),
      .read_address(x_from[XA-1:0]),
      .read_data(x_read)
  );
  vector_memory #(
      .WIDTH(LANES * 27),
      .WORDS(P_WORDS)
  ) p_memory (
      .clk(clk),
      .write(r[16] && (pass == P_APPLY || (finishes && kind == GATED))),
      .write_address(r_index_at[16*16+:PA]),
      .write_data(gated),
      .read_address(index[PA-1:0]),
      .read_data(p_read)
  );
  localparam int NA = XA > PA ? XA : PA;
  vector_memory #(
      .WIDTH(LANES * 18),
      .WORDS(X_WORDS > P_WORDS ? X_WORDS : P_WORDS)
  ) n_memory (
      .clk(clk),
      .write(pass == P_NORM && at[10]),
      .write_address(index_at[16*10+:NA]),
      .write_data(narrow_w),
      .read_address(index[NA-1:0]),
      .read_data(n_read)
  );
  vector_memory #(
      .WIDTH(LANES * 18),
      .WORDS(F_WORDS)
  ) g_memory (
      .clk(clk),
      .write(finishes && kind == STORE && r[10]),
      .write_address(r_index_at[16*10+:FA]),
      .write_data(narrow_y),
      .read_address(index[FA-1:0]),
      .read_data(g_read)
  );
  wire shows = finishes && kind == STATE && r[43];
  vector_memory #(
      .WIDTH(LANES * 18),
      .WORDS(P_WORDS)
  ) a_memory (
      .clk(clk),
      .write(shows || (finishes && kind == GATE && r[23])),
      .write_address(shows ? r_index_at[16*43+:PA] : r_index_at[16*23+:PA]),
      .write_data(shows ? shown : silu_y),
      .read_address(r_index_at[16*10+:PA]),
      .read_data(a_read)
  );
  vector_memory #(
      .WIDTH(LANES * 16),
      .WORDS(F_WORDS)
  ) f_memory (
      .clk(clk),
      .write(finishes && kind == FORGET && r[23]),
      .write_address(r_index_at[16*23+:FA]),
      .write_data(forget),
      .read_address(r_index_at[16*21+:FA]),
      .read_data(f_read)
  );
  wire [15:0] h_from = base + r_index_at[16*21+:16];
  wire [15:0] h_place = base + r_index_at[16*29+:16];
  vector_memory #(
      .WIDTH(LANES * 27),
      .WORDS(H_WORDS)
  ) h_memory (
      .clk(clk),
      .write(finishes && kind == STATE && r[29]),
      .write_address(h_place[HA-1:0]),
      .write_data(state),
      .read_address(h_from[HA-1:0]),
      .read_data(h_read)
  );
  // Gains are kept from the first pass, which takes them as they come, for the second; a lower bound
  // until its gate is there (zero where a layer has none).
  reg [LANES*16-1:0] c_1, c_2;
  always @(posedge clk) {c_2, c_1} <= {c_1, c_data};
  wire [15:0] gain_from = finishes ? r_index_at[16*16+:16] : index;
  vector_memory #(
      .WIDTH(LANES * 16),
      .WORDS(X_WORDS > P_WORDS ? X_WORDS : P_WORDS)
  ) gain_memory (
      .clk(clk),
      .write(at[1] && (streams || (finishes && kind == FORGET))),
      .write_address(index_at[16*1+:NA]),
      .write_data(streams ? c_1 : {LANES * 16{1'b0}}),
      .read_address(gain_from[NA-1:0]),
      .read_data(gain_read)
  );

  // The operands of norms and quantisers, three cycles behind the index.
  localparam [2:0] CONSTANT = 3'd0, NORMED = 3'd1, STREAM = 3'd2, PRODUCTS = 3'd3, GATES = 3'd4;
  reg [2:0] operand;
  reg [16:0] one;
  reg kept_gain, squared;
  reg [5:0] left;
  always @(posedge clk) begin
    operand <= pass == P_EMBED ? CONSTANT : operation != NORM ? NORMED
             : source == 2'd0 ? STREAM : source == 2'd1 ? PRODUCTS : GATES;
    one <= operation == NORM || pass == P_EMBED ? 17'd1 : 17'd32768;
    kept_gain <= pass != P_LARGEST;
    squared <= pass == P_NORM;
    left <= pass == P_EMBED ? row_m[5:0] : found_left;  // of the embedding it is in the row
  end
  reg [LANES*27-1:0] scaled_x;
  reg [LANES*17-1:0] scaled_gain;
  wire [LANES*8-1:0] q;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      wire [15:0] c = c_2[16*i+:16];
      wire [17:0] g = g_read[18*i+:18];
      wire [17:0] n = n_read[18*i+:18];
      wire [15:0] kept = gain_read[16*i+:16];
      always @(posedge clk) begin
        scaled_x[27*i+:27] <= operand == CONSTANT ? {{11{c[15]}}, c}
                            : operand == NORMED ? {{9{n[17]}}, n}
                            : operand == STREAM ? x_read[27*i+:27]
                            : operand == PRODUCTS ? p_read[27*i+:27] : {{9{g[17]}}, g};
        scaled_gain[17*i+:17] <= !gain ? one : kept_gain ? {kept[15], kept} : {c[15], c};
      end
      assign narrow_w[18*i+:18] = w[27*i+:18];
      assign narrow_y[18*i+:18] = y[27*i+:18];

      // X + y, four cycles behind y
      reg signed [26:0] y1, y2;
      reg signed [27:0] wide_sum;
      reg signed [26:0] sum;
      reg signed [26:0] xi;
      always @(posedge clk) begin
        xi <= x_read[27*i+:27];
        y1 <= y[27*i+:27];
        y2 <= y1;
        wide_sum <= xi + y2;
        sum <= wide_sum > 28'sd67108863 ? 27'sd67108863
             : wide_sum < -28'sd67108863 ? -27'sd67108863 : wide_sum[26:0];
      end
      // An embedding's number is rounded half up.
      assign x_written[27*i+:27] = embeds ? w[27*i+:27] + {26'd0, half[i]} : sum;
    end
  endgenerate
  wire [LANES-1:0] half;
  wire [42:0] largest;
  wire [49:0] squares;
  wire [5:0] found_left;
  wire [15:0] inverse;
  norm_quantise #(
      .LANES(LANES)
  ) scaling (
      .clk(clk),
      .clear(pass_start),
      .valid(at[3]),
      .x(scaled_x),
      .gain(scaled_gain),
      .left(left),
      .square(squared),
      .inverse(inverse),
      .largest(largest),
      .squares(squares),
      .w(w),
      .half(half),
      .q(q)
  );
  scalar_unit scalars (
      .clk(clk),
      .rst(rst),
      .start(scalar_start),
      .command(scalar_command),
      .m(row_m),
      .e(row_e),
      .largest(largest),
      .squares(squares),
      .busy(scalar_busy),
      .left(found_left),
      .inverse(inverse),
      .factor(factor),
      .right(right)
  );

  // The engine; its sums are read LANES at a time, word by word of P.
  localparam int PARTS = P / LANES;
  localparam int PARTS_BITS = $clog2(PARTS);
  wire [15:0] place = index + offset;
  wire [15:0] group = place >> PARTS_BITS;
  ternary_engine #(
      .P(P),
      .GROUPS(GROUPS),
      .CODEC(CODEC),
      .LANES(LANES),
      .X_WORDS(Q_WORDS),
      .Y_WORDS(Y_WORDS)
  ) engine (
      .clk(clk),
      .rst(rst),
      .x_write(pass == P_QUANTISE && at[14]),
      .x_address(index_at[16*14+:QA]),
      .x_data(q),
      .start(engine_start),
      .slices(slices),
      .row_groups(row_groups),
      .idle(engine_idle),
      .w_valid(w_valid),
      .w_ready(w_ready),
      .w_data(w_data),
      .y_address(sequencing ? group[YA-1:0] : y_address),
      .y_data(y_data)
  );
  reg [LANES*24-1:0] sums;
  generate
    if (PARTS == 1) begin : g_whole
      always @(posedge clk) sums <= y_data;
    end else begin : g_part
      reg [PARTS_BITS-1:0] part1, part2;
      always @(posedge clk) begin
        {part2, part1} <= {part1, place[PARTS_BITS-1:0]};
        sums <= y_data[part2*LANES*24+:LANES*24];
      end
    end
  endgenerate
  argmax #(
      .LANES(LANES)
  ) head (
      .clk(clk),
      .clear(pass_start),
      .valid(at[3] && finishes && kind == HEAD),
      .last(last_at[3]),
      .tail(tail),
      .index(index_at[16*3+:16]),
      .sums(sums),
      .place(likeliest)
  );

  // Real numbers again: requantise, then what the row's kind makes of them.
  wire [LANES*24-1:0] narrowed;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_requantised
      assign narrowed[24*i+:24] = finishes ? sums[24*i+:24] : w[27*i+:24];
    end
  endgenerate
  requantise #(
      .LANES(LANES)
  ) requantised (
      .clk(clk),
      .v(narrowed),
      .factor(factor),
      .right(right),
      .wide(wide),
      .y(y)
  );
  gates #(
      .LANES(LANES)
  ) gating (
      .clk(clk),
      .y(y),
      .forgets(forgets),
      .fraction(fraction),
      .lower_bound(gain_read),
      .f(f_read),
      .h(cleared ? {LANES * 27{1'b0}} : h_read),
      .other(a_read),
      .forget(forget),
      .silu_y(silu_y),
      .state(state),
      .shown(shown),
      .gated(gated)
  );
endmodule
