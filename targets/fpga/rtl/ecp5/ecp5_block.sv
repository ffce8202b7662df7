// A block RAM of Lattice's ECP5, 512 words of 36 bits, with its output register.
module ecp5_block (
    input  wire        clk,
    input  wire        write,
    input  wire [ 8:0] write_address,
    input  wire [35:0] write_data,
    input  wire [ 8:0] read_address,
    output wire [35:0] read_data
);
  PDPW16KD #(
      .DATA_WIDTH_W(36),
      .DATA_WIDTH_R(36),
      .REGMODE("OUTREG"),
      .GSR("DISABLED")
  ) block (
      .DI0(write_data[0]), .DI1(write_data[1]), .DI2(write_data[2]), .DI3(write_data[3]), .DI4(write_data[4]), .DI5(write_data[5]),
      .DI6(write_data[6]), .DI7(write_data[7]), .DI8(write_data[8]), .DI9(write_data[9]), .DI10(write_data[10]), .DI11(write_data[11]),
      .DI12(write_data[12]), .DI13(write_data[13]), .DI14(write_data[14]), .DI15(write_data[15]), .DI16(write_data[16]), .DI17(write_data[17]),
      .DI18(write_data[18]), .DI19(write_data[19]), .DI20(write_data[20]), .DI21(write_data[21]), .DI22(write_data[22]), .DI23(write_data[23]),
      .DI24(write_data[24]), .DI25(write_data[25]), .DI26(write_data[26]), .DI27(write_data[27]), .DI28(write_data[28]), .DI29(write_data[29]),
      .DI30(write_data[30]), .DI31(write_data[31]), .DI32(write_data[32]), .DI33(write_data[33]), .DI34(write_data[34]), .DI35(write_data[35]),
      .ADW0(write_address[0]), .ADW1(write_address[1]), .ADW2(write_address[2]), .ADW3(write_address[3]), .ADW4(write_address[4]), .ADW5(write_address[5]),
      .ADW6(write_address[6]), .ADW7(write_address[7]), .ADW8(write_address[8]),
      .BE0(1'b1), .BE1(1'b1), .BE2(1'b1), .BE3(1'b1),
      .CLKW(clk), .CEW(write), .CSW0(1'b0), .CSW1(1'b0), .CSW2(1'b0),
      .ADR5(read_address[0]), .ADR6(read_address[1]), .ADR7(read_address[2]), .ADR8(read_address[3]), .ADR9(read_address[4]), .ADR10(read_address[5]), .ADR11(read_address[6]), .ADR12(read_address[7]), .ADR13(read_address[8]),
      .ADR0(1'b0), .ADR1(1'b0), .ADR2(1'b0), .ADR3(1'b0), .ADR4(1'b0),
      .CLKR(clk), .CER(1'b1), .OCER(1'b1), .CSR0(1'b0), .CSR1(1'b0), .CSR2(1'b0), .RST(1'b0),
      .DO0(read_data[0]), .DO1(read_data[1]), .DO2(read_data[2]), .DO3(read_data[3]), .DO4(read_data[4]), .DO5(read_data[5]),
      .DO6(read_data[6]), .DO7(read_data[7]), .DO8(read_data[8]), .DO9(read_data[9]), .DO10(read_data[10]), .DO11(read_data[11]),
      .DO12(read_data[12]), .DO13(read_data[13]), .DO14(read_data[14]), .DO15(read_data[15]), .DO16(read_data[16]), .DO17(read_data[17]),
      .DO18(read_data[18]), .DO19(read_data[19]), .DO20(read_data[20]), .DO21(read_data[21]), .DO22(read_data[22]), .DO23(read_data[23]),
      .DO24(read_data[24]), .DO25(read_data[25]), .DO26(read_data[26]), .DO27(read_data[27]), .DO28(read_data[28]), .DO29(read_data[29]),
      .DO30(read_data[30]), .DO31(read_data[31]), .DO32(read_data[32]), .DO33(read_data[33]), .DO34(read_data[34]), .DO35(read_data[35])
  );
endmodule
