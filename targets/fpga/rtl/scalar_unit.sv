// The numbers that a vector has one of: shifts, 1 / sqrt(sum of squares), 127 / maximum, factors.
//
// A number is m * 2^-e with m in [2^15, 2^16).  Everything takes a fixed number of cycles: leading
// zeros are found by halving, roots and quotients come bit by bit.
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

  // Leading zeros of `value`: by 32, 16, 8, 4, 2, 1.
  reg [63:0] value;
  reg [ 5:0] zeros;
  reg none, empty;
  reg [ 5:0] half;
  wire [63:0] halved = value << half;
  wire skip = (value >> (7'd64 - {1'b0, half})) == 64'd0;

  // epsilon: m shifted by k = e - 2 s, found while the second pass runs.
  reg [60:0] epsilon;
  reg signed [11:0] k;
  reg [5:0] distance;
  reg [3:0] epsilon_step;
  reg upward;
  wire [2:0] epsilon_place = epsilon_step[2:0] - 3'd1;

  // Root and quotient.
  reg [31:0] radicand;
  reg [17:0] rest;
  reg [15:0] found;
  wire [17:0] root_rest = {rest[15:0], radicand[31:30]};
  wire [17:0] root_trial = {found, 2'b01};
  reg [15:0] divisor;
  reg fill;
  wire [17:0] quotient_rest = {1'b0, rest[15:0], fill};
  wire dividing = now == RANGE || step > 6'd24;
  wire [17:0] trial_rest = dividing ? quotient_rest : root_rest;
  wire [17:0] trial = dividing ? {2'b00, divisor} : root_trial;
  wire fits = trial_rest >= trial;

  // The product of two numbers.
  reg [15:0] a, b;
  reg signed [11:0] ab_e;
  reg [31:0] product;
  wire [15:0] product_m = product[31] ? product[31:16] : product[30:15];
  wire signed [11:0] product_e = ab_e - (product[31] ? 12'sd16 : 12'sd15);

  reg [15:0] norm_m, step_m;
  reg signed [11:0] norm_e, step_e;
  wire signed [11:0] left_e = {6'd0, left} - 12'sd26;  // -t

  always @(posedge clk) begin
    product <= a * b;
    empty <= squares == 50'd0 && epsilon == 61'd0;
    if (rst) running <= 1'b0;
    else if (start) begin
      running <= 1'b1;
      step <= 6'd0;
      now <= command;
    end else if (running) step <= step + 6'd1;

    if (running && now != FACTOR && step >= 6'd1 && step <= 6'd6) begin
      if (skip && half != 6'd0) begin
        value <= halved;
        zeros <= zeros + half;
      end
      half <= half >> 1;
    end

    if (running)
      case (now)
        SHIFT: begin
          if (step == 6'd0) load(largest);
          if (step == 6'd7) begin
            left <= none ? 6'd26 : zeros;
            running <= 1'b0;
            epsilon_step <= 4'd8;
          end
        end
        RANGE, APPLY: begin
          if (step == 6'd0) load(largest);
          if (step == 6'd7) begin
            left <= none ? 6'd26 : zeros - 6'd1;
            divisor <= none ? 16'd0 : value[63:48];
            {rest, fill, found} <= {18'd32512, 1'b0, 16'd0};
          end
          if (step == 6'd8) begin
            {a, b} <= now == RANGE ? {divisor, norm_m} : {norm_m, m};
            ab_e <= left_e + norm_e + (now == RANGE ? 12'sd0 : e);
          end
          if (step == 6'd10) begin
            if (now == RANGE) {step_m, step_e} <= {product_m, product_e};
            else put_factor();
          end
          if (now == APPLY && step == 6'd11) running <= 1'b0;
          if (now == RANGE && step >= 6'd8 && step < 6'd24) digit();
          if (step == 6'd24) begin
            inverse <= found;
            running <= 1'b0;
          end
        end
        ROOT: begin
          if (step == 6'd0) begin
            value <= empty ? 64'd1 : {14'd0, squares} + {3'd0, epsilon};
            {zeros, half} <= {6'd0, 6'd32};
          end
          // By even numbers only: the last of the six steps would be by one.
          if (step == 6'd6) begin
            radicand <= value[63:32];
            {rest, found} <= 34'd0;
            norm_e <= 12'sd47 - {7'd0, zeros[5:1]};
          end
          if (step >= 6'd7 && step < 6'd23) digit();
          if (step == 6'd23) divisor <= found;
          if (step == 6'd24) {rest, fill, found} <= {18'd32767, 1'b1, 16'd0};
          if (step >= 6'd25 && step < 6'd41) digit();
          if (step == 6'd41) begin
            norm_m <= found;
            running <= 1'b0;
          end
        end
        default: begin  // FACTOR
          if (step == 6'd0) begin
            {a, b} <= {step_m, m};
            ab_e <= step_e + e;
          end
          if (step == 6'd2) begin
            put_factor();
            running <= 1'b0;
          end
        end
      endcase

    // The six shifts of epsilon behind SHIFT: k = e - 52 + 2 left.
    if (rst) epsilon_step <= 4'd0;
    else if (epsilon_step != 4'd0) begin
      epsilon_step <= epsilon_step - 4'd1;
      if (epsilon_step == 4'd7) begin
        epsilon <= {45'd0, m};
        upward <= k >= 12'sd0;
        distance <= k >= 12'sd44 ? 6'd44 : k >= 12'sd0 ? k[5:0] : k < -12'sd16 ? 6'd16 : -k[5:0];
      end else if (epsilon_step < 4'd7 && distance[epsilon_place])
        epsilon <= upward ? epsilon << (6'd1 << epsilon_place)
                          : epsilon >> (6'd1 << epsilon_place);
    end
    k <= e - 12'sd52 + {5'd0, left, 1'b0};
  end

  task automatic load(input [42:0] x);
    value <= {x, 21'd0};
    none <= x == 43'd0;
    {zeros, half} <= {6'd0, 6'd32};
  endtask

  task automatic digit();
    rest <= fits ? trial_rest - trial : trial_rest;
    found <= {found[14:0], fits};
    radicand <= {radicand[29:0], 2'b00};
  endtask

  task automatic put_factor();
    factor <= product_m;
    right <= product_e > 12'sd47 ? 6'd46 : product_e[5:0] - 6'd1;
  endtask
endmodule
