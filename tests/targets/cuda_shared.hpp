// Arrays in shared memory that see what threads of a block do to one element between two barriers of
// the block: hazards are accesses by two threads, one of which writes.  What a warp does together is no
// barrier here.  Behind cuda_threads.hpp.
namespace threads {

static int hazards = 0;

// Who wrote and read an element last, and between which barriers.
struct Seen {
  long written = 0, read = 0;
  int writer = 0, reader = 0;
  bool several = false;  // read by more than one

  void load() {
    int number = threadIdx.x;
    long now = own.passed[number];
    hazards += written == now && writer != number;
    several = read == now && (several || reader != number);
    read = now, reader = number;
  }

  void store() {
    int number = threadIdx.x;
    long now = own.passed[number];
    hazards += written == now && writer != number;
    hazards += read == now && (several || reader != number);
    written = now, writer = number;
  }
};

template <typename T>
struct Element {
  T& value;
  Seen& seen;

  T* operator&() const { return &value; }
  operator T() const {
    seen.load();
    return value;
  }
  Element& operator=(T x) {
    seen.store();
    value = x;
    return *this;
  }
  Element& operator=(const Element& other) { return *this = static_cast<T>(other); }
};

// What is read or written by its address is not seen.
template <typename T, int kCount>
struct Shared {
  T values[kCount] __attribute__((aligned(64)));
  Seen seen[kCount];

  template <typename Index>
  Element<T> operator[](Index i) {
    return {values[i], seen[i]};
  }
  operator T*() { return values; }
};

}  // namespace threads

// How many there were since the last call.
extern "C" int hazards() {
  int found = threads::hazards;
  threads::hazards = 0;
  return found;
}
