// s = sigmoid(y) by table and straight line; y has `fraction` fraction bits.
//
// sigmoid is 0..65535 (1.0 is 65536): base[i] + (delta[i] * f + 128) >> 8 between 1024 points of
// [-16, 16); sigmoid.hex holds {delta, base}, 10 and 16 bits.  s comes 6 cycles behind y.
module sigmoid #(
    parameter int LANES = 8
) (
    input  wire                clk,
    input  wire [LANES*18-1:0] y,
    input  wire [         3:0] fraction,
    output wire [LANES*16-1:0] s
);
  wire [3:0] up = 4'd13 - fraction;
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : g_lane
      reg [25:0] points[0:1023];
      initial $readmemh("sigmoid.hex", points);
      wire signed [17:0] yi = y[18*i+:18];
      wire signed [27:0] scaled = {{10{yi[17]}}, yi} <<< up;
      reg signed [27:0] raised;
      reg [17:0] place;
      reg [25:0] found, point;
      reg [7:0] f1, f2;
      reg [17:0] sloped;
      reg [15:0] base, value;
      wire [17:0] half_up = sloped + 18'd128;
      always @(posedge clk) begin
        raised <= scaled + 28'sd131072;
        place <= raised < 0 ? 18'd0 : raised > 28'sd262143 ? 18'h3ffff : raised[17:0];
        found <= points[place[17:8]];
        f1 <= place[7:0];
        point <= found;
        f2 <= f1;
        sloped <= point[25:16] * f2;
        base <= point[15:0];
        value <= base + {6'd0, half_up[17:8]};
      end
      assign s[16*i+:16] = value;
    end
  endgenerate
endmodule
