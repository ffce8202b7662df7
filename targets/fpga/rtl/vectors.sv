// The vectors between the phases, in words of LANES numbers; and where each pass reads and writes.
//
// x (residual), p (gated product), g (gate), n (normed), f (forget gate), a (what gates: silu of gate
// or state), h (recurrent state of every layer), and the gains of a pass.
module vectors #(
    parameter int LANES = 8,
    parameter int X_WORDS = 32,
    parameter int P_WORDS = 96,
    parameter int F_WORDS = 32,
    parameter int H_WORDS = 192,
    localparam int LONG = 15 + $clog2(LANES),
    localparam int LAST = 44
) (
    input  wire                clk,
    input  wire [       127:0] row,
    input  wire [         2:0] pass,
    // pass_words
    input  wire                streams,
    input  wire                finishes,
    input  wire [        15:0] index,
    input  wire [      LONG:1] at,
    input  wire [ 14*16+15:16] index_at,
    input  wire [      LAST:1] r,
    input  wire [LAST*16-1:16] r_index_at,
    // what is written
    input  wire [LANES*16-1:0] c,          // constants, a cycle late
    input  wire [LANES*27-1:0] x_written,
    input  wire [LANES*27-1:0] gated,
    input  wire [LANES*27-1:0] w,
    input  wire [LANES*27-1:0] y,
    input  wire [LANES*18-1:0] shown,
    input  wire [LANES*18-1:0] silu_y,
    input  wire [LANES*16-1:0] forget,
    input  wire [LANES*27-1:0] state,
    // what is read
    output wire [LANES*27-1:0] x_read,
    output wire [LANES*27-1:0] p_read,
    output wire [LANES*18-1:0] n_read,
    output wire [LANES*18-1:0] g_read,
    output wire [LANES*18-1:0] a_read,
    output wire [LANES*16-1:0] f_read,
    output wire [LANES*27-1:0] h_read,
    output wire [LANES*16-1:0] gain_read
);
  localparam int XA = $clog2(X_WORDS), PA = $clog2(P_WORDS), FA = $clog2(F_WORDS);
  localparam int HA = $clog2(H_WORDS), NA = XA > PA ? XA : PA;
  localparam int N_WORDS = X_WORDS > P_WORDS ? X_WORDS : P_WORDS;
  program_row::fields fields;
  assign fields = row;
  wire [3:0] kind = fields.kind;

  wire [LANES*18-1:0] narrow_w, narrow_y;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_narrow
      assign narrow_w[18*i+:18] = w[27*i+:18];
      assign narrow_y[18*i+:18] = y[27*i+:18];
    end
  endgenerate

  wire embeds = pass == program_row::PASS_EMBED && at[10];
  wire [15:0] x_place = embeds ? index_at[16*10+:16] : r_index_at[16*14+:16];
  wire [15:0] x_from = finishes ? r_index_at[16*9+:16] : index;
  vector_memory #(
      .WIDTH(LANES * 27),
      .WORDS(X_WORDS)
  ) x_memory (
      .clk(clk),
      .write(embeds || (finishes && kind == program_row::RESIDUAL && r[14])),
      .write_address(x_place[XA-1:0]),
      .write_data(x_written),
      .read_address(x_from[XA-1:0]),
      .read_data(x_read)
  );
  wire gates = pass == program_row::PASS_APPLY || (finishes && kind == program_row::GATED);
  vector_memory #(
      .WIDTH(LANES * 27),
      .WORDS(P_WORDS)
  ) p_memory (
      .clk(clk),
      .write(gates && r[16]),
      .write_address(r_index_at[16*16+:PA]),
      .write_data(gated),
      .read_address(index[PA-1:0]),
      .read_data(p_read)
  );
  vector_memory #(
      .WIDTH(LANES * 18),
      .WORDS(N_WORDS)
  ) n_memory (
      .clk(clk),
      .write(pass == program_row::PASS_NORM && at[10]),
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
      .write(finishes && kind == program_row::STORE && r[10]),
      .write_address(r_index_at[16*10+:FA]),
      .write_data(narrow_y),
      .read_address(index[FA-1:0]),
      .read_data(g_read)
  );
  wire shows = finishes && kind == program_row::STATE && r[43];
  vector_memory #(
      .WIDTH(LANES * 18),
      .WORDS(P_WORDS)
  ) a_memory (
      .clk(clk),
      .write(shows || (finishes && kind == program_row::GATE && r[23])),
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
      .write(finishes && kind == program_row::FORGET && r[23]),
      .write_address(r_index_at[16*23+:FA]),
      .write_data(forget),
      .read_address(r_index_at[16*21+:FA]),
      .read_data(f_read)
  );
  wire [15:0] h_from = fields.base + r_index_at[16*21+:16];
  wire [15:0] h_place = fields.base + r_index_at[16*29+:16];
  vector_memory #(
      .WIDTH(LANES * 27),
      .WORDS(H_WORDS)
  ) h_memory (
      .clk(clk),
      .write(finishes && kind == program_row::STATE && r[29]),
      .write_address(h_place[HA-1:0]),
      .write_data(state),
      .read_address(h_from[HA-1:0]),
      .read_data(h_read)
  );
  // Gains are kept from the first pass, which takes them as they come, for the second; a lower bound
  // until its gate is there (zero where a layer has none).
  wire [15:0] gain_from = finishes ? r_index_at[16*16+:16] : index;
  vector_memory #(
      .WIDTH(LANES * 16),
      .WORDS(N_WORDS)
  ) gain_memory (
      .clk(clk),
      .write(at[1] && (streams || (finishes && kind == program_row::FORGET))),
      .write_address(index_at[16*1+:NA]),
      .write_data(streams ? c : {LANES * 16{1'b0}}),
      .read_address(gain_from[NA-1:0]),
      .read_data(gain_read)
  );
endmodule
