// What TVM's preamble takes from headers that do not come with NVRTC: a few names of cuda/std, and
// constants of math_constants.h.
#ifndef MMC_STANDARD_CUH
#define MMC_STANDARD_CUH

#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000ll)

namespace cuda {
namespace std {

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;

template <class T, T v>
struct integral_constant { static constexpr T value = v; };
template <class A, class B>
struct is_same : integral_constant<bool, false> {};
template <class A>
struct is_same<A, A> : integral_constant<bool, true> {};
template <class A, class B>
inline constexpr bool is_same_v = is_same<A, B>::value;
template <class T>
struct is_floating_point
    : integral_constant<bool, is_same_v<T, float> || is_same_v<T, double>> {};
template <class T>
struct is_integral : integral_constant<bool, T(1) / T(2) == T(0)> {};
template <class T>
struct is_signed : integral_constant<bool, (T(-1) < T(0))> {};
template <class T>
struct is_unsigned : integral_constant<bool, (T(0) < T(-1))> {};
template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> { using type = T; };
template <bool B, class T, class F>
struct conditional { using type = T; };
template <class T, class F>
struct conditional<false, T, F> { using type = F; };

}  // namespace std
}  // namespace cuda

#endif
