// Command load is both ends of a benchmark, cheap enough that what stands between them is what is measured:
//
//	load upstream --listen 127.0.0.1:0 [--body BYTES]
//	load run --address 127.0.0.1:8080 --request FILE --connections 32 --seconds 5
//
// The upstream answers every request with 200 and a fixed body. The load is closed-loop: each connection sends the
// request again as soon as the answer has arrived whole. One JSON document is printed; latencies are in microseconds.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: load upstream|run …")
	}
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
	size := flags.Int("body", 2, "bytes of the response body")
	_ = flags.Parse(args)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fail("%v", err)
	}
	fmt.Println(listener.Addr())
	answer := append([]byte("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: "+strconv.Itoa(*size)+"\r\n\r\n"),
		bytes.Repeat([]byte("x"), *size)...)
	for {
		connection, err := listener.Accept()
		if err != nil {
			fail("%v", err)
		}
		go serve(connection, answer)
	}
}

func serve(connection net.Conn, answer []byte) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 64<<10)
	for {
		length, chunked, err := head(reader)
		if err != nil {
			return
		}
		if err := skip(reader, length, chunked); err != nil {
			return
		}
		if _, err := connection.Write(answer); err != nil {
			return
		}
	}
}

// head reads up to the blank line and returns how the body is framed.
func head(reader *bufio.Reader) (length int, chunked bool, err error) {
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

type result struct {
	Requests  int            `json:"requests"`
	Seconds   float64        `json:"seconds"`
	PerSecond float64        `json:"per_second"`
	P50       float64        `json:"p50_us"`
	P99       float64        `json:"p99_us"`
	P999      float64        `json:"p999_us"`
	Statuses  map[string]int `json:"statuses"`
	Errors    int            `json:"errors"`
}

func run(args []string) {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	address := flags.String("address", "", "host:port")
	file := flags.String("request", "", "file with one raw request")
	connections := flags.Int("connections", 1, "connections, each with one request in flight")
	seconds := flags.Float64("seconds", 5, "how long")
	_ = flags.Parse(args)
	request, err := os.ReadFile(*file)
	if err != nil {
		fail("%v", err)
	}
	var group sync.WaitGroup
	parts := make([]part, *connections)
	start := time.Now()
	deadline := start.Add(time.Duration(*seconds * float64(time.Second)))
	for i := range parts {
		group.Add(1)
		go func(p *part) {
			defer group.Done()
			p.drive(*address, request, deadline)
		}(&parts[i])
	}
	group.Wait()
	report(parts, time.Since(start).Seconds())
}

type part struct {
	latencies []time.Duration
	statuses  [600]int
	errors    int
}

// drive sends the request again and again. A connection that fails counts as one error and is opened anew.
func (p *part) drive(address string, request []byte, deadline time.Time) {
	for time.Now().Before(deadline) {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			p.errors++
			time.Sleep(10 * time.Millisecond)
			continue
		}
		_ = connection.SetDeadline(deadline.Add(5 * time.Second))
		if err := p.exchange(connection, request, deadline); err != nil {
			p.errors++
		}
		connection.Close()
	}
}

func (p *part) exchange(connection net.Conn, request []byte, deadline time.Time) error {
	reader := bufio.NewReaderSize(connection, 64<<10)
	for {
		begin := time.Now()
		if !begin.Before(deadline) {
			return nil
		}
		if _, err := connection.Write(request); err != nil {
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
		length, chunked, err := head(reader)
		if err != nil {
			return err
		}
		if err := skip(reader, length, chunked); err != nil {
			return err
		}
		p.latencies = append(p.latencies, time.Since(begin))
		p.statuses[status]++
		if status != http.StatusOK && status >= 400 {
			return nil // a refusal may close the connection: take a new one
		}
	}
}

func report(parts []part, seconds float64) {
	var all []time.Duration
	out := result{Seconds: seconds, Statuses: map[string]int{}}
	for i := range parts {
		all = append(all, parts[i].latencies...)
		out.Errors += parts[i].errors
		for status, count := range parts[i].statuses {
			if count > 0 {
				out.Statuses[strconv.Itoa(status)] += count
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	out.Requests = len(all)
	out.PerSecond = float64(len(all)) / seconds
	out.P50, out.P99, out.P999 = quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999)
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1))].Nanoseconds()) / 1e3
}
