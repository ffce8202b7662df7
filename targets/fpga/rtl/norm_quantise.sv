// The passes of a norm and of a quantiser over LANES numbers a cycle.
//
//   t = x * gain  ->  largest |t|          (first pass)
//                 ->  w = (t << left) >> 26 ->  sum of w^2   (second pass of a norm: w is n)
//                                           ->  q = (w * inverse + 2^23) >> 24   (of a quantiser)
//
// Cycles behind the operands: product 4, largest 6 + LEVELS, w 7, q 11, squares 11 + LEVELS.
module norm_quantise #(
    parameter int LANES = 8,
    localparam int LEVELS = $clog2(LANES)
) (
    input  wire                clk,
    input  wire                clear,    // before a pass
    input  wire                valid,    // of the operands
    input  wire [LANES*27-1:0] x,
    input  wire [LANES*17-1:0] gain,
    input  wire [         5:0] left,
    input  wire                square,   // w * w, not w * inverse
    input  wire [        15:0] inverse,
    output reg  [        42:0] largest,
    output reg  [        49:0] squares,
    output wire [LANES*27-1:0] w,
    output reg  [   LANES-1:0] half,     // the bit below w
    output wire [ LANES*8-1:0] q
);
  reg [11+LEVELS:0] v;
  always @(posedge clk) v <= {v[10+LEVELS:0], valid};

  wire [LANES*43-1:0] magnitudes;
  wire [LANES*36-1:0] products;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      wire signed [43:0] t;
      multiplier #(
          .A(27),
          .B(17)
      ) multiply (
          .clk(clk),
          .a(x[27*i+:27]),
          .b(gain[17*i+:17]),
          .p(t)
      );
      reg [42:0] magnitude;
      reg signed [59:0] shifted32, shifted4;
      reg signed [26:0] shifted;
      wire signed [35:0] product;
      multiplier square_or_code (
          .clk(clk),
          .a(shifted[17:0]),
          .b(square ? shifted[17:0] : {2'b00, inverse}),
          .p(product)
      );
      reg [7:0] rounded;
      wire signed [59:0] wide_t = {{16{t[43]}}, t};
      wire signed [59:0] by16 = wide_t <<< {left[5:4], 4'd0};
      wire signed [59:0] by4 = shifted32 <<< {left[3:2], 2'b00};
      wire signed [59:0] by1 = shifted4 <<< left[1:0];
      wire signed [35:0] half_up = product + 36'sd8388608;
      always @(posedge clk) begin
        magnitude <= t[43] ? -t[42:0] : t[42:0];
        shifted32 <= by16;
        shifted4 <= by4;
        shifted <= by1[52:26];
        half[i] <= by1[25];
        rounded <= half_up[31:24];
      end
      assign magnitudes[43*i+:43] = magnitude;
      assign products[36*i+:36] = product;
      assign w[27*i+:27] = shifted;
      assign q[8*i+:8] = rounded;
    end
  endgenerate

  wire [42:0] tree_largest;
  max_tree #(
      .N(LANES),
      .W(43)
  ) maximum (
      .clk(clk),
      .terms(magnitudes),
      .y(tree_largest)
  );
  wire signed [35+LEVELS:0] tree_squares;
  adder_tree #(
      .N(LANES),
      .W(36)
  ) sum (
      .clk(clk),
      .terms(products),
      .y(tree_squares)
  );
  always @(posedge clk) begin
    if (clear) largest <= 43'd0;
    else if (v[4+LEVELS] && tree_largest > largest) largest <= tree_largest;
    if (clear) squares <= 50'd0;
    else if (v[9+LEVELS]) squares <= squares + {{14 - LEVELS{1'b0}}, tree_squares};
  end
endmodule
