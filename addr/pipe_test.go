package addr

import (
	"fmt"
	"path/filepath"
	"testing"
)

// Two that open a named pipe at the same time, where there is none yet, open the same one, whoever makes it.
func TestFIFOMadeByTwo(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	for i := range 500 {
		text := fmt.Sprintf("PIPE:%s,unlink-close=0", filepath.Join(dir, fmt.Sprint(i)))
		start, done := make(chan struct{}), make(chan error)
		for range 2 {
			a := mustBind(t, text, ReadWrite)
			go func() {
				<-start
				src, err := a.Open(h.ctx, h.env)
				if err == nil {
					err = src.Close()
				}
				done <- err
			}()
		}
		close(start)
		for range 2 {
			if err := <-done; err != nil {
				t.Fatalf("pipe %d: %v", i, err)
			}
		}
	}
}
