// Command load is both ends of a benchmark, cheap enough that what stands between them is what is measured:
//
//	load upstream --listen 127.0.0.1:0
//	load run --address 127.0.0.1:8080 --requests FILE [--from 0] --connections 32 --seconds 5 [--ramp 0.1]
//
// The upstream answers every request with 200 and two bytes, or with as many as the path asks for: /bodies/1000.
//
// The load is closed-loop: each connection sends its next request as soon as the answer has arrived whole. The file holds
// raw requests, one after the other; the connections take them in turn, beginning with number --from, and begin again
// after the last. What is answered within --ramp seconds is not counted. One JSON document is printed.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const buffered = 16 << 10

func main() {
	if len(os.Args) < 2 {
		fail("usage: load upstream|run …")
	}
	debug.SetGCPercent(400)
	switch os.Args[1] {
	case "upstream":
		upstream(os.Args[2:])
	case "run":
		run(os.Args[2:])
	default:
		fail("usage: load upstream|run …")
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(2)
}

// upstream

func upstream(args []string) {
	flags := flag.NewFlagSet("upstream", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
	_ = flags.Parse(args)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fail("%v", err)
	}
	fmt.Println(listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			fail("%v", err)
		}
		go serve(connection)
	}
}

var answers sync.Map // bytes of the body -> the whole answer

func answer(size int) []byte {
	if made, found := answers.Load(size); found {
		return made.([]byte)
	}
	head := "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: " + strconv.Itoa(size) + "\r\n\r\n"
	made := append([]byte(head), bytes.Repeat([]byte("x"), size)...)
	answers.Store(size, made)
	return made
}

func serve(connection net.Conn) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, buffered)
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		size := wanted(line)
		if err := rest(reader); err != nil {
			return
		}
		if _, err := connection.Write(answer(size)); err != nil {
			return
		}
	}
}

// wanted is the number in GET /bodies/1000 HTTP/1.1, and 2 elsewhere.
func wanted(line []byte) int {
	_, after, found := bytes.Cut(line, []byte(" /bodies/"))
	if !found {
		return 2
	}
	digits, _, _ := bytes.Cut(after, []byte(" "))
	size, err := strconv.Atoi(string(digits))
	if err != nil {
		return 2
	}
	return size
}

// rest reads a message's header fields and its body.
func rest(reader *bufio.Reader) error {
	length, chunked, err := fields(reader)
	if err != nil {
		return err
	}
	return skip(reader, length, chunked)
}

// fields reads up to the blank line and returns how the body is framed.
func fields(reader *bufio.Reader) (length int, chunked bool, err error) {
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return length, chunked, nil
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			continue
		}
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, false, err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		}
	}
}

func skip(reader *bufio.Reader, length int, chunked bool) error {
	if !chunked {
		_, err := reader.Discard(length)
		return err
	}
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := reader.Discard(int(size) + 2); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
	}
}

// load

// What is printed. Sent counts what was answered within the ramp too, so that CPU time can be divided by it.
type result struct {
	Requests  int            `json:"requests"`
	Seconds   float64        `json:"seconds"`
	Sent      int            `json:"sent"`
	Statuses  map[string]int `json:"statuses"`
	Errors    int            `json:"errors"`
	Latencies map[int64]int  `json:"latencies_ns"` // nanoseconds, rounded to three digits -> how many
}

func run(args []string) {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	address := flags.String("address", "", "host:port")
	file := flags.String("requests", "", "file with raw requests")
	from := flags.Int64("from", 0, "number of the request to begin with")
	connections := flags.Int("connections", 1, "connections, each with one request in flight")
	seconds := flags.Float64("seconds", 5, "how long is counted")
	ramp := flags.Float64("ramp", 0, "seconds before that")
	_ = flags.Parse(args)
	messages, err := read(*file)
	if err != nil {
		fail("%s: %v", *file, err)
	}
	next := &atomic.Int64{}
	next.Store(*from)
	counted := time.Now().Add(duration(*ramp))
	deadline := counted.Add(duration(*seconds))
	parts := make([]part, *connections)
	var group sync.WaitGroup
	for i := range parts {
		group.Add(1)
		go func(p *part) {
			defer group.Done()
			p.drive(*address, messages, next, counted, deadline)
		}(&parts[i])
	}
	group.Wait()
	report(parts, time.Since(counted).Seconds())
}

func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}

// read splits a file into the requests that it holds.
func read(file string) ([][]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var messages [][]byte
	for len(raw) > 0 {
		end := bytes.Index(raw, []byte("\r\n\r\n"))
		if end < 0 {
			return nil, io.ErrUnexpectedEOF
		}
		end += 4
		length, _, err := fields(bufio.NewReader(bytes.NewReader(raw[bytes.IndexByte(raw, '\n')+1 : end])))
		if err != nil {
			return nil, err
		}
		if end += length; end > len(raw) {
			return nil, io.ErrUnexpectedEOF
		}
		messages = append(messages, raw[:end])
		raw = raw[end:]
	}
	if messages == nil {
		return nil, errors.New("no request")
	}
	return messages, nil
}

type part struct {
	latencies []time.Duration
	sent      int
	statuses  [600]int
	errors    int
}

// drive sends requests until the deadline. A connection that fails counts as one error and is opened anew.
func (p *part) drive(address string, messages [][]byte, next *atomic.Int64, counted, deadline time.Time) {
	for time.Now().Before(deadline) {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			p.errors++
			time.Sleep(10 * time.Millisecond)
			continue
		}
		_ = connection.SetDeadline(deadline.Add(5 * time.Second))
		if err := p.exchange(connection, messages, next, counted, deadline); err != nil {
			p.errors++
		}
		connection.Close()
	}
}

func (p *part) exchange(
	connection net.Conn, messages [][]byte, next *atomic.Int64, counted, deadline time.Time,
) error {
	reader := bufio.NewReaderSize(connection, buffered)
	end := time.Now()
	for end.Before(deadline) {
		begin := end
		message := messages[int((next.Add(1)-1)%int64(len(messages)))]
		if _, err := connection.Write(message); err != nil {
			return err
		}
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) < 12 {
			return io.ErrUnexpectedEOF
		}
		status, err := strconv.Atoi(string(line[9:12]))
		if err != nil || status < 100 || status >= len(p.statuses) {
			return fmt.Errorf("not a status line: %q", line)
		}
		if err := rest(reader); err != nil {
			return err
		}
		end = time.Now()
		p.sent++
		p.statuses[status]++
		if end.After(counted) {
			p.latencies = append(p.latencies, end.Sub(begin))
		}
		if status >= 400 {
			return nil // a refusal may close the connection: take a new one
		}
	}
	return nil
}

func report(parts []part, seconds float64) {
	out := result{Seconds: seconds, Statuses: map[string]int{}, Latencies: map[int64]int{}}
	for i := range parts {
		out.Requests += len(parts[i].latencies)
		out.Sent += parts[i].sent
		out.Errors += parts[i].errors
		for status, count := range parts[i].statuses {
			if count > 0 {
				out.Statuses[strconv.Itoa(status)] += count
			}
		}
		for _, latency := range parts[i].latencies {
			out.Latencies[rounded(latency.Nanoseconds())]++
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// rounded keeps three digits: a latency is told to within half a percent.
func rounded(value int64) int64 {
	unit := int64(1)
	for value/unit >= 1000 {
		unit *= 10
	}
	return (value + unit/2) / unit * unit
}
