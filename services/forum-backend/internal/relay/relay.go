// Package relay answers: how do files get from one server of the site to another? Uploads are passed on to the upload
// origin, and a file that has not arrived here yet is read from there.
//
// Servers prove who they are with the key that they share (session.Keys.Relay): each request carries its time, a nonce
// and an HMAC over method, path and both; an upload ends with an HMAC over its bytes as a trailer, because they are not
// known before they have passed. The origin gives a file its name only when that is right.
package relay

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// Prefix is where the origin answers the other servers.
const Prefix = "/internal/files"

// Headers of the requests between servers.
const (
	headerAuth = "Authorization"
	scheme     = "Twotier-Forum"
	// trailerBody is the HMAC of an upload's bytes.
	trailerBody = "X-Forum-Body-Mac"
)

// Limits.
const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 30 * time.Second // from the end of a request to the head of its answer: includes the origin's fsync
	maxAnswer     = 4 << 10          // bytes of the answer to an upload
	maxSkew       = 30 * time.Second // between the clocks of two servers
)

// Disk is the files path of this server.
type Disk interface {
	Save(ctx context.Context, from io.Reader, limit int64, commit func(forum.File) error) (forum.File, error)
	Open(name string) (io.ReadCloser, error)
	Remove(name string) error
}

// Source tells where a file was read.
type Source string

// The sources.
const (
	Local  Source = "local"  // this server's disk
	Origin Source = "origin" // the upload origin
)

// Files are the files of the site as one server reaches them.
type Files struct {
	disk   Disk
	key    []byte
	origin string // http://HOST:PORT of the origin; empty on the origin itself
	client *http.Client
}

// New makes the files of a server. origin is HOST:PORT of the upload origin, empty on the origin itself. Close it.
func New(disk Disk, key []byte, origin string) *Files {
	f := &Files{disk: disk, key: key}
	if origin != "" {
		f.origin = "http://" + origin
		f.client = &http.Client{
			Transport: &http.Transport{
				Proxy:                  nil, // the origin is a neighbour
				DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
				ResponseHeaderTimeout:  answerTimeout,
				ExpectContinueTimeout:  dialTimeout,
				MaxResponseHeaderBytes: 16 << 10,
				MaxIdleConnsPerHost:    8,
				IdleConnTimeout:        30 * time.Second, // below the server's
				DisableCompression:     true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return f
}

// Close ends the idle connections to the origin.
func (f *Files) Close() {
	if f.client != nil {
		f.client.CloseIdleConnections()
	}
}

// Available reports whether an upload would be taken at present: forum.ErrUploadsAway when the origin does not answer.
func (f *Files) Available(ctx context.Context) error {
	if f.origin == "" {
		return nil
	}
	resp, err := f.ask(ctx, http.MethodGet, Prefix, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Save keeps a file of at most limit bytes, on the origin wherever this is called. forum.ErrTooLarge,
// forum.ErrUploadsAway; an error of from is answered as it is.
func (f *Files) Save(ctx context.Context, from io.Reader, limit int64) (forum.File, error) {
	if f.origin == "" {
		return f.disk.Save(ctx, from, limit, nil)
	}
	body := &upload{from: io.LimitReader(from, limit+1), sum: sha256.New(), closed: make(chan struct{})}
	resp, err := f.ask(ctx, http.MethodPost, Prefix, body)
	<-body.closed // the client may still be reading when the answer is there; afterwards from is the caller's again
	if resp != nil {
		defer resp.Body.Close()
	}
	switch {
	case body.err != nil:
		return forum.File{}, fmt.Errorf("pass upload on: read: %w", body.err)
	case err != nil && body.size > limit:
		return forum.File{}, fmt.Errorf("pass upload on: %w: more than %d bytes: %w", forum.ErrTooLarge, limit, err)
	case err != nil:
		return forum.File{}, err
	}
	file, err := readAnswer(resp.Body)
	if err != nil {
		return forum.File{}, fmt.Errorf("pass upload on: %w: %w", forum.ErrUploadsAway, err)
	}
	if body.size > limit { // the origin allows more already, and keeps the part that it got
		return forum.File{}, errors.Join(fmt.Errorf("pass upload on: %w: more than %d bytes", forum.ErrTooLarge, limit), f.Remove(ctx, file.Path))
	}
	if file.Size != body.size || file.SHA256 != [32]byte(body.sum.Sum(nil)) {
		return forum.File{}, fmt.Errorf("pass upload on: %w: the origin has other bytes than were sent", forum.ErrUploadsAway)
	}
	return file, nil
}

// Remove takes a file away that no post came to have.
func (f *Files) Remove(ctx context.Context, name string) error {
	if f.origin == "" {
		return f.disk.Remove(name)
	}
	resp, err := f.ask(ctx, http.MethodDelete, Prefix+"/"+name, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Opened is a file being read. Its bytes are verified: it fails before it has given out the whole of a wrong file.
type Opened struct {
	io.Reader
	Source Source
	closer io.Closer
}

// Close ends the reading.
func (o *Opened) Close() error { return o.closer.Close() }

// Open reads a file from this server's disk, or from the origin when it is not here or not right here.
// forum.ErrNotFound, forum.ErrTampered, forum.ErrUploadsAway.
func (f *Files) Open(ctx context.Context, file forum.File) (*Opened, error) {
	local, err := f.disk.Open(file.Path)
	if err == nil {
		var o *Opened
		if o, err = opened(local, file, Local); err == nil {
			return o, nil
		}
	}
	if f.origin == "" {
		return nil, err
	}
	resp, remote := f.ask(ctx, http.MethodGet, Prefix+"/"+file.Path, nil)
	if remote != nil {
		return nil, remote
	}
	return opened(resp.Body, file, Origin)
}

func opened(from io.ReadCloser, file forum.File, source Source) (*Opened, error) {
	r, err := forum.Verify(from, file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read file (%s): %w", source, err), from.Close())
	}
	return &Opened{r, source, from}, nil
}

// ask sends a request to the origin and answers its answer, if it is a good one.
func (f *Files) ask(ctx context.Context, method, path string, body *upload) (*http.Response, error) {
	var from io.Reader
	if body != nil {
		from = body
	}
	r, err := http.NewRequestWithContext(ctx, method, f.origin+path, from)
	if err != nil {
		return nil, err
	}
	nonce := rand.Text()
	now := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set(headerAuth, strings.Join([]string{scheme, now, nonce, requestMAC(f.key, method, path, now, nonce)}, " "))
	if body != nil {
		r.Header.Set("Expect", "100-continue") // a refusal comes before the bytes are sent
		r.Trailer = http.Header{trailerBody: nil}
		body.end = func() { r.Trailer.Set(trailerBody, bodyMAC(f.key, nonce, body.sum.Sum(nil))) }
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s %s at the upload origin: %w: %w", method, path, forum.ErrUploadsAway, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return resp, nil
	case http.StatusNotFound:
		err = forum.ErrNotFound
	case http.StatusRequestEntityTooLarge:
		err = forum.ErrTooLarge
	default:
		err = forum.ErrUploadsAway
	}
	_ = resp.Body.Close() // the answer is not wanted
	return nil, fmt.Errorf("%s %s at the upload origin: %w (status %d)", method, path, err, resp.StatusCode)
}

// upload is a body on its way to the origin.
type upload struct {
	from io.Reader
	sum  hash.Hash
	size int64
	err  error  // of from
	end  func() // at the end, before the trailer is sent

	closed chan struct{} // by the client, once, when it reads no more
	once   sync.Once
}

// Close tells that the client reads no more.
func (u *upload) Close() error {
	u.once.Do(func() { close(u.closed) })
	return nil
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.from.Read(p)
	u.sum.Write(p[:n])
	u.size += int64(n)
	if err == io.EOF { // not errors.Is: a form that broke off wraps io.EOF
		u.end()
	} else if err != nil {
		u.err = err
	}
	return n, err
}

func requestMAC(key []byte, method, path, now, nonce string) string {
	return mac(key, "request", method, path, now, nonce)
}

func bodyMAC(key []byte, nonce string, sum []byte) string {
	return mac(key, "body", nonce, hex.EncodeToString(sum))
}

// mac authenticates parts, none of which contains a line break.
func mac(key []byte, parts ...string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(m.Sum(nil))
}

// answer is what the origin says of a file that it saved.
type answer struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Type   string `json:"type"`
}

func readAnswer(r io.Reader) (forum.File, error) {
	var a answer
	if err := json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(&a); err != nil {
		return forum.File{}, err
	}
	sum, err := hex.DecodeString(a.SHA256)
	if err != nil || len(sum) != sha256.Size || !forum.CheckFilePath(a.Path) || forum.FileType(a.Type) != a.Type {
		return forum.File{}, errors.New("the origin's answer is not one")
	}
	return forum.File{Path: a.Path, Size: a.Size, SHA256: [32]byte(sum), Type: a.Type}, nil
}
