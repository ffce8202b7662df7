// s = sigmoid(y) by table and straight line; y has `fraction` fraction bits.
//
// sigmoid is 0..65535 (1.0 is 65536): base[i] + (delta[i] * f + 128) >> 8 between 1024 points of
// [-16, 16); sigmoid.hex holds {delta, base}, 10 and 16 bits.  s comes 9 cycles behind y.
module sigmoid #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*18-1:0] y,
    input  wire [         3:0] fraction,
    output wire [LANES*16-1:0] s
);
  reg [3:0] up;
  always @(posedge clk) up <= 4'd13 - fraction;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      wire signed [17:0] yi = y[18*i+:18];
      reg signed [27:0] scaled4, raised;
      wire signed [27:0] scaled = scaled4 <<< up[1:0];
      reg [17:0] place;
      wire [25:0] point;
      rom #(
          .WIDTH(26),
          .WORDS(1024),
          .FILE ("sigmoid.hex")
      ) points (
          .clk(clk),
          .address(place[17:8]),
          .data(point)
      );
      reg [7:0] f1, f2;
      wire [19:0] sloped;
      multiplier #(
          .A(11),
          .B(9)
      ) slope (
          .clk(clk),
          .a({1'b0, point[25:16]}),
          .b({1'b0, f2}),
          .p(sloped)
      );
      reg [15:0] base1, base2, base3, value;
      wire [17:0] half_up = sloped[17:0] + 18'd128;
      always @(posedge clk) begin
        scaled4 <= {{10{yi[17]}}, yi} <<< {up[3:2], 2'b00};
        raised <= scaled + 28'sd131072;
        place <= raised < 0 ? 18'd0 : raised > 28'sd262143 ? 18'h3ffff : raised[17:0];
        f1 <= place[7:0];
        f2 <= f1;
        {base3, base2, base1} <= {base2, base1, point[15:0]};
        value <= base3 + {6'd0, half_up[17:8]};
      end
      assign s[16*i+:16] = value;
    end
  endgenerate
endmodule
