// A square root or a quotient of 16 bits, one a cycle from the highest, by shift and subtract.
//
// root:      of radicand, 32 bits
// quotient:  of {dividend, 16 times fill} by the divisor
//
// The first is found in the cycle after load; what is found when 16 are there stays until one more.
module digits (
    input  wire        clk,
    input  wire        load,
    input  wire        quotient,   // with load
    input  wire [31:0] radicand,
    input  wire [15:0] dividend,
    input  wire [15:0] divisor,
    input  wire        fill,
    output reg  [15:0] found
);
  // `rest` has the bits of this step already.
  reg [17:0] rest, trial;
  reg [29:0] below;
  reg dividing, filling;
  wire [18:0] difference = {1'b0, rest} - {1'b0, trial};
  wire fits = !difference[18];
  wire [17:0] left = fits ? difference[17:0] : rest;
  always @(posedge clk)
    if (load) begin
      rest <= quotient ? {1'b0, dividend, fill} : {16'd0, radicand[31:30]};
      trial <= quotient ? {2'b00, divisor} : 18'd1;
      below <= radicand[29:0];
      {dividing, filling} <= {quotient, fill};
      found <= 16'd0;
    end else begin
      rest <= dividing ? {1'b0, left[15:0], filling} : {left[15:0], below[29:28]};
      trial <= dividing ? trial : {found[14:0], fits, 2'b01};
      below <= {below[27:0], 2'b00};
      found <= {found[14:0], fits};
    end
endmodule
