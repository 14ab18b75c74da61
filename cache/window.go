package cache

// ring holds the bytes of a stream's window, each at its offset modulo the size.
type ring struct {
	size int64
	mem  []byte
	file File
}

const (
	// diskWindow and memoryWindow are how far the fastest reader may be ahead of the slowest.
	diskWindow   = 64 << 20
	memoryWindow = 4 << 20
)

// newRing makes a window for content of a size: on disk where that takes writes, else in memory.
func (c *Cache) newRing(size int64) *ring {
	if c.disk.writable() && (size < 0 || size > memoryWindow) && c.disk.books.reserve(diskWindow) {
		f, path, err := c.disk.temp()
		if err == nil {
			if err = c.disk.fs.Remove(path); err == nil {
				return &ring{size: diskWindow, file: &window{f, c.disk.books}}
			}
			_ = f.Close()
		}
		c.disk.books.release(diskWindow)
	}
	return memoryRing()
}

func memoryRing() *ring { return &ring{size: memoryWindow, mem: make([]byte, memoryWindow)} }

// window is a ring's file, with its place on the books.
type window struct {
	File
	books *books
}

func (w *window) Close() error {
	w.books.release(diskWindow)
	return w.File.Close()
}

func (g *ring) put(p []byte, off int64) error {
	return g.pieces(p, off, func(p []byte, at int64) error {
		if g.file == nil {
			copy(g.mem[at:], p)
			return nil
		}
		_, err := g.file.WriteAt(p, at)
		return err
	})
}

func (g *ring) get(p []byte, off int64) error {
	return g.pieces(p, off, func(p []byte, at int64) error {
		if g.file == nil {
			copy(p, g.mem[at:])
			return nil
		}
		_, err := g.file.ReadAt(p, at)
		return err
	})
}

// pieces calls do for p's one or two places.
func (g *ring) pieces(p []byte, off int64, do func(p []byte, at int64) error) error {
	at := off % g.size
	n := min(int64(len(p)), g.size-at)
	if err := do(p[:n], at); err != nil || n == int64(len(p)) {
		return err
	}
	return do(p[n:], 0)
}

func (g *ring) close() {
	if g.file != nil {
		_ = g.file.Close()
	}
}
