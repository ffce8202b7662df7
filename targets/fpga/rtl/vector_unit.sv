// The passes of a row over vectors: norm and quantiser before a product, what is made of its sums
// behind it; with the scalar unit and the argmax.
//
//   x, p, g, n --> operands --> norm_quantise --> n | q of the engine | w --.
//                                            engine's sums ----------------+--> requantise --> gates
//   --> x, p, g, a, f, h
module vector_unit #(
    parameter int LANES = 8,
    parameter int X_WORDS = 32,
    parameter int P_WORDS = 96,
    parameter int F_WORDS = 32,
    parameter int H_WORDS = 192
) (
    input  wire                clk,
    input  wire                rst,
    // the sequencer
    input  wire [       127:0] row,
    input  wire                cleared,       // h is zero
    input  wire                pass_start,
    input  wire [         2:0] pass,
    output wire                pass_done,
    input  wire                scalar_start,
    input  wire [         2:0] scalar_command,
    output wire                scalar_busy,
    // constants
    input  wire                c_valid,
    output wire                c_ready,
    input  wire [LANES*16-1:0] c_data,
    // the engine's activations; its sums, three cycles behind their word
    output wire                q_write,
    output wire [        15:0] q_word,
    output wire [ LANES*8-1:0] q,
    output wire [        15:0] sums_word,
    input  wire [LANES*24-1:0] sums,
    // of the head
    output wire [        31:0] likeliest,
    output wire [        15:0] factor,
    output wire [         5:0] right
);
  localparam int LONG = 15 + $clog2(LANES);
  localparam int LAST = 44;
  program_row::fields fields;
  assign fields = row;

  wire streams, finishes, last_at_3;
  wire [15:0] index;
  wire [LONG:1] at;
  wire [14*16+15:16] index_at;
  wire [LAST:1] r;
  wire [LAST*16-1:16] r_index_at;
  pass_words #(
      .LANES(LANES)
  ) words (
      .clk(clk),
      .rst(rst),
      .row(row),
      .start(pass_start),
      .pass(pass),
      .done(pass_done),
      .c_valid(c_valid),
      .c_ready(c_ready),
      .streams(streams),
      .finishes(finishes),
      .index(index),
      .at(at),
      .last_at_3(last_at_3),
      .index_at(index_at),
      .r(r),
      .r_index_at(r_index_at)
  );
  assign sums_word = index + fields.offset;

  reg [LANES*16-1:0] c_1, c_2;
  always @(posedge clk) {c_2, c_1} <= {c_1, c_data};
  wire [LANES*27-1:0] x_read, p_read, h_read, x_written, w, y, state, gated;
  wire [LANES*18-1:0] n_read, g_read, a_read, silu_y, shown;
  wire [LANES*16-1:0] f_read, forget, gain_read;
  vectors #(
      .LANES(LANES),
      .X_WORDS(X_WORDS),
      .P_WORDS(P_WORDS),
      .F_WORDS(F_WORDS),
      .H_WORDS(H_WORDS)
  ) memories (
      .clk(clk),
      .row(row),
      .pass(pass),
      .streams(streams),
      .finishes(finishes),
      .index(index),
      .at(at),
      .index_at(index_at),
      .r(r),
      .r_index_at(r_index_at),
      .c(c_1),
      .x_written(x_written),
      .gated(gated),
      .w(w),
      .y(y),
      .shown(shown),
      .silu_y(silu_y),
      .forget(forget),
      .state(state),
      .x_read(x_read),
      .p_read(p_read),
      .n_read(n_read),
      .g_read(g_read),
      .a_read(a_read),
      .f_read(f_read),
      .h_read(h_read),
      .gain_read(gain_read)
  );

  // Norms and quantisers.
  wire [LANES*27-1:0] scaled_x;
  wire [LANES*17-1:0] scaled_gain;
  operands #(
      .LANES(LANES)
  ) scaled (
      .clk(clk),
      .row(row),
      .pass(pass),
      .c(c_2),
      .gain_read(gain_read),
      .x_read(x_read),
      .p_read(p_read),
      .g_read(g_read),
      .n_read(n_read),
      .x(scaled_x),
      .gain(scaled_gain)
  );
  wire embeds = pass == program_row::PASS_EMBED;
  wire [5:0] found_left;
  reg [5:0] left;
  reg squared;
  always @(posedge clk) begin
    squared <= pass == program_row::PASS_NORM;
    left <= embeds ? fields.mantissa[5:0] : found_left;  // of the embedding it is in the row
  end
  wire [LANES-1:0] half;
  wire [42:0] largest;
  wire [49:0] squares;
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
  assign q_write = pass == program_row::PASS_QUANTISE && at[14];
  assign q_word  = index_at[16*14+:16];
  scalar_unit scalars (
      .clk(clk),
      .rst(rst),
      .start(scalar_start),
      .command(scalar_command),
      .m(fields.mantissa),
      .e(fields.exponent),
      .largest(largest),
      .squares(squares),
      .busy(scalar_busy),
      .left(found_left),
      .inverse(inverse),
      .factor(factor),
      .right(right)
  );
  argmax #(
      .LANES(LANES)
  ) head (
      .clk(clk),
      .clear(pass_start),
      .valid(at[3] && finishes && fields.kind == program_row::HEAD),
      .last(last_at_3),
      .tail(fields.base[7:0]),
      .index(index_at[16*3+:16]),
      .sums(sums),
      .place(likeliest)
  );

  // Real numbers again: requantise, then what the row's kind makes of them.
  reg forgets, wide;
  always @(posedge clk) begin
    forgets <= fields.kind == program_row::FORGET;
    wide <= fields.kind == program_row::RESIDUAL && pass == program_row::PASS_FINISH;
  end
  wire [LANES*24-1:0] narrowed;
  wire [LANES*27-1:0] residual;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      assign narrowed[24*i+:24] = finishes ? sums[24*i+:24] : w[27*i+:24];
      // An embedding's number is rounded half up.
      assign x_written[27*i+:27] = embeds && at[10] ? w[27*i+:27] + {26'd0, half[i]}
                                 : residual[27*i+:27];
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
  residual_sum #(
      .LANES(LANES)
  ) stream (
      .clk(clk),
      .x  (x_read),
      .y  (y),
      .sum(residual)
  );
  gates #(
      .LANES(LANES)
  ) gating (
      .clk(clk),
      .y(y),
      .forgets(forgets),
      .fraction(fields.fraction),
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
