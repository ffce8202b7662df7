// y = a + b + c, numbers with sign; c counts where `with_c`.
//
// A look-up table of UltraScale+ with two outputs adds a bit of three numbers: the sum of the three
// goes into the carry chain, their majority to the table of the next bit.  yosys does not find it,
// so with MMC_XILINX it is named.
module ternary_adder #(
    parameter int W = 12
) (
    input  wire [W-1:0] a,
    input  wire [W-1:0] b,
    input  wire [W-1:0] c,
    input  wire         with_c,
    output wire [W-1:0] y
);
`ifdef MMC_XILINX
  localparam int CHAINS = (W + 3) / 4;
  wire [4*CHAINS-1:0] propagate, sum;
  wire [4*CHAINS:0] majority;
  wire [4*CHAINS:0] carry;
  assign majority[0] = 1'b0;
  assign carry[0] = 1'b0;
  assign y = sum[W-1:0];
  genvar i;
  generate
    for (i = 0; i < 4 * CHAINS; i = i + 1) begin : g_bit
      if (i < W) begin : g_used
        // c = I2 & I4.  O5: majority of c, I1, I0; O6: I3 ^ c ^ I1 ^ I0
        LUT6_2 #(
            .INIT(64'h6996_9966_E8E8_8888)
        ) lut (
            .I0(a[i]),
            .I1(b[i]),
            .I2(c[i]),
            .I3(majority[i]),
            .I4(with_c),
            .I5(1'b1),
            .O5(majority[i+1]),
            .O6(propagate[i])
        );
      end else begin : g_above
        assign majority[i+1] = 1'b0;
        assign propagate[i]  = 1'b0;
      end
    end
    for (i = 0; i < CHAINS; i = i + 1) begin : g_chain
      wire [3:0] out;
      CARRY4 chain (
          .CI(carry[4*i]),
          .CYINIT(1'b0),
          .DI(majority[4*i+:4]),
          .S(propagate[4*i+:4]),
          .O(sum[4*i+:4]),
          .CO(out)
      );
      assign carry[4*i+1+:4] = out;
    end
  endgenerate
`else
  assign y = a + b + (c & {W{with_c}});
`endif
endmodule
