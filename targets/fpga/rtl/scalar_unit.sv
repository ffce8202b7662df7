// The numbers that a vector has one of: shifts, 1 / sqrt(sum of squares), 127 / maximum, factors.
//
// A number is m * 2^-e with m in [2^15, 2^16).  Everything takes a fixed number of cycles, whatever
// the numbers are: what does not depend on the command is computed all the time, and `step` says
// when it is there.
//
//   largest | squares + epsilon --> leading_zeros --> left, digits --> inverse, 1 / sqrt
//                                                     multiplier --> step of the quantiser, factor
module scalar_unit (
    input  wire               clk,
    input  wire               rst,
    input  wire               start,
    input  wire        [ 2:0] command,
    input  wire        [15:0] m,         // of the row of the program
    input  wire signed [11:0] e,
    input  wire        [42:0] largest,   // max |t| of a pass
    input  wire        [49:0] squares,   // sum of n^2
    output wire               busy,
    output reg         [ 5:0] left,      // a pass gives (t << left) >> 26
    output reg         [15:0] inverse,   // 127 * 2^24 / maximum
    output reg         [15:0] factor,    // requantise: acc * factor, then >> right + 1, rounded
    output reg         [ 5:0] right
);
  localparam [2:0] SHIFT = 3'd0;  // left for NORM, epsilon of m, e
  localparam [2:0] ROOT = 3'd1;   // 1 / sqrt(squares + epsilon)
  localparam [2:0] RANGE = 3'd2;  // left and inverse for QUANT, the step of the quantiser
  localparam [2:0] APPLY = 3'd3;  // left and factor for a norm without quantiser
  localparam [2:0] FACTOR = 3'd4; // factor of the sums: step of the quantiser times m, e

  reg [2:0] now;
  reg [5:0] step;
  reg running;
  assign busy = running;

  wire [63:0] total, value;
  wire [5:0] zeros;
  epsilon_sum sum_and_epsilon (
      .clk(clk),
      .m(m),
      .e(e),
      .left(left),
      .squares(squares),
      .total(total)
  );
  leading_zeros normalise (
      .clk(clk),
      .x(now == ROOT ? total : {largest, 21'd0}),
      .even(now == ROOT),
      .y(value),
      .zeros(zeros)
  );
  wire none = !value[63];  // largest is 0

  // The root is the divisor of the quotient behind it.
  localparam [5:0] THERE = 6'd7, ROOT_THERE = 6'd24, INVERSE_THERE = 6'd24, END = 6'd41;
  wire [15:0] found;
  wire second = now == ROOT && step == ROOT_THERE;
  digits root_and_quotient (
      .clk(clk),
      .load(running && (step == THERE || second)),
      .quotient(now != ROOT || step == ROOT_THERE),
      .radicand(value[63:32]),
      .dividend(now == ROOT ? 16'd32767 : 16'd32512),
      .divisor(now == ROOT ? found : value[63:48]),
      .fill(now == ROOT),
      .found(found)
  );

  // The product of two numbers, in operation 4 cycles behind them: RANGE largest * norm, APPLY
  // norm * m, FACTOR step * m.
  reg [15:0] divisor, norm_m, step_m;
  reg signed [11:0] norm_e, step_e, scale_e, ab_e;
  wire [15:0] a = now == FACTOR ? step_m : now == RANGE ? divisor : norm_m;
  wire [15:0] b = now == RANGE ? norm_m : m;
  wire [33:0] product;
  multiplier #(
      .A(17),
      .B(17)
  ) multiply (
      .clk(clk),
      .a({1'b0, a}),
      .b({1'b0, b}),
      .p(product)
  );
  localparam [5:0] MADE = 6'd4, MADE_LATER = 6'd12;
  reg [15:0] made_m;
  reg signed [11:0] made_e;
  always @(posedge clk) begin
    scale_e <= norm_e + {6'd0, left} - 12'sd26;
    ab_e <= (now == FACTOR ? step_e : scale_e) + (now == RANGE ? 12'sd0 : e);
    made_m <= product[31] ? product[31:16] : product[30:15];
    made_e <= ab_e - (product[31] ? 12'sd16 : 12'sd15);
  end

  always @(posedge clk) begin
    if (rst) running <= 1'b0;
    else if (start) begin
      running <= 1'b1;
      step <= 6'd0;
      now <= command;
    end else if (running) begin
      step <= step + 6'd1;
      case (now)
        SHIFT: running <= step != THERE;
        ROOT: running <= step != END;
        RANGE: running <= step != INVERSE_THERE;
        APPLY: running <= step != MADE_LATER;
        default: running <= step != MADE;
      endcase
    end
    if (running) begin
      if (step == THERE)
        case (now)
          SHIFT: left <= none ? 6'd26 : zeros;
          ROOT: norm_e <= 12'sd47 - {7'd0, zeros[5:1]};
          RANGE, APPLY: {left, divisor} <= {none ? 6'd26 : zeros - 6'd1, value[63:48]};
          default: ;
        endcase
      if (now == ROOT && step == END) norm_m <= found;
      if (now == RANGE && step == INVERSE_THERE) inverse <= found;
      if (now == RANGE && step == MADE_LATER) {step_m, step_e} <= {made_m, made_e};
      if (now == APPLY && step == MADE_LATER || now == FACTOR && step == MADE) begin
        factor <= made_m;
        right <= made_e > 12'sd47 ? 6'd46 : made_e[5:0] - 6'd1;
      end
    end
  end
endmodule
