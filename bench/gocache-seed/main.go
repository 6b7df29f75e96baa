// Command gocache-seed is a cache program for the go command with the plainest strategy: see README.md.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

type request struct {
	ID       int64
	Command  string
	ActionID string
	OutputID string
	BodySize int64
	body     []byte
}

type response struct {
	ID            int64
	Err           string     `json:",omitempty"`
	KnownCommands []string   `json:",omitempty"`
	Miss          bool       `json:",omitempty"`
	OutputID      string     `json:",omitempty"`
	Size          int64      `json:",omitempty"`
	Time          *time.Time `json:",omitempty"`
	DiskPath      string     `json:",omitempty"`
}

type metadata struct {
	OutputID  string
	Size      int64 `json:",omitempty"`
	TimeNanos int64 `json:",omitempty"`
}

type cache struct {
	dir    string
	remote *bucket
}

func escape(id string) string { return strings.ReplaceAll(id, "/", "-") }

func (c *cache) put(r request) response {
	data := escape(r.OutputID) + "-d"
	path := filepath.Join(c.dir, data)
	if err := write(path, r.body); err != nil {
		return response{ID: r.ID, Err: err.Error()}
	}
	meta, _ := json.Marshal(metadata{OutputID: r.OutputID, Size: r.BodySize, TimeNanos: time.Now().UnixNano()})
	name := escape(r.ActionID) + "-a.json"
	if err := write(filepath.Join(c.dir, name), meta); err != nil {
		return response{ID: r.ID, Err: err.Error()}
	}
	if c.remote != nil {
		if err := c.remote.put(data, r.body); err != nil {
			return response{ID: r.ID, Err: err.Error()}
		}
		if err := c.remote.put(name, meta); err != nil {
			return response{ID: r.ID, Err: err.Error()}
		}
	}
	return response{ID: r.ID, DiskPath: path}
}

func (c *cache) get(r request) response {
	miss := response{ID: r.ID, Miss: true}
	name := escape(r.ActionID) + "-a.json"
	text, err := os.ReadFile(filepath.Join(c.dir, name))
	if errors.Is(err, os.ErrNotExist) && c.remote != nil {
		if found, err := c.remote.head(name); err != nil || !found {
			return miss
		}
		text, err = c.remote.get(name)
	}
	if err != nil {
		return miss
	}
	var meta metadata
	if json.Unmarshal(text, &meta) != nil {
		return miss
	}
	data := escape(meta.OutputID) + "-d"
	path := filepath.Join(c.dir, data)
	if _, err := os.Stat(path); err != nil {
		if c.remote == nil {
			return miss
		}
		body, err := c.remote.get(data)
		if err != nil || write(path, body) != nil {
			return miss
		}
	}
	stored := time.Unix(0, meta.TimeNanos)
	return response{ID: r.ID, OutputID: meta.OutputID, Size: meta.Size, Time: &stored, DiskPath: path}
}

// write goes through a file of its own: several processes of a test may share the folder.
func write(path string, body []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "t-")
	if err != nil {
		return err
	}
	_, err = temporary.Write(body)
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

func open() (*cache, error) {
	dir := os.Getenv("GOCACHE_SEED_DIR")
	if dir == "" {
		dir = ".cache"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	remote, err := fromEnvironment()
	return &cache{dir: dir, remote: remote}, err
}

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "gocache-seed:", err)
		os.Exit(1)
	}
}

func serve() error {
	store, err := open()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "CacheProg used.")
	var writing sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	answer := func(r response) {
		writing.Lock()
		defer writing.Unlock()
		json.NewEncoder(out).Encode(r)
		out.Flush()
	}
	answer(response{KnownCommands: []string{"get", "put", "close"}})
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	var running sync.WaitGroup
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			running.Wait()
			return err
		}
		if r.Command == "put" && r.BodySize > 0 {
			var text string
			if err := in.Decode(&text); err != nil {
				return err
			}
			if r.body, err = base64.StdEncoding.DecodeString(text); err != nil {
				return err
			}
		}
		if r.Command == "close" {
			running.Wait()
			leaveMemory()
			answer(response{ID: r.ID})
			return nil
		}
		running.Add(1)
		go func() {
			defer running.Done()
			switch r.Command {
			case "get":
				answer(store.get(r))
			case "put":
				answer(store.put(r))
			default:
				answer(response{ID: r.ID, Err: "unknown command"})
			}
		}()
	}
}

func leaveMemory() {
	path := os.Getenv("GOCACHE_SEED_MEMORY")
	var usage syscall.Rusage
	if path != "" && syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		os.WriteFile(path, bytes.TrimSpace(fmt.Appendf(nil, "%d", usage.Maxrss)), 0o644)
	}
}
