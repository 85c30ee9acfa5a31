package desired

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// Limits of the file source.
const (
	// FilePoll is the pause between two looks at the files. They are looked at by time, size and inode: that also sees
	// what inotify misses, a folder that is swapped through a symbolic link, and network file systems.
	FilePoll = 500 * time.Millisecond
	// MaxFile is the largest file, in bytes.
	MaxFile = 4 << 20
	// MaxFiles is the most files of a folder.
	MaxFiles = 1000
)

// files is the source that reads YAML: one file, or the *.yaml of a folder in the order of their names.
type files struct {
	store    *Store
	path     string
	revision int64
}

func newFiles(s *Store, path string) *files {
	// The counter goes on from the copy, so that "newer" stays larger across a restart.
	return &files{store: s, path: path, revision: s.newest.Revision}
}

func (f *files) put(context.Context, string, proto.Message, string) (int64, error) {
	return 0, &ReadOnlyError{Path: f.path}
}

func (f *files) remove(context.Context, string, string, string) (int64, error) {
	return 0, &ReadOnlyError{Path: f.path}
}

func (f *files) close() error { return nil }

// run reads at once, then whenever the files have changed and have then kept still for one poll: a file that is being
// written may look like a whole one that lacks its end.
func (f *files) run(ctx context.Context) error {
	inForce := f.look()
	f.read()
	ticker := time.NewTicker(FilePoll)
	defer ticker.Stop()
	before := inForce
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := f.look()
		if now != inForce && now == before {
			f.read()
			inForce = now
		}
		before = now
	}
}

// look is a fingerprint of the files, without their content.
func (f *files) look() string {
	names, err := f.names()
	if err != nil {
		return "unreadable: " + err.Error()
	}
	var print strings.Builder
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			fmt.Fprintf(&print, "%s: %v\n", name, err)
			continue
		}
		inode := uint64(0)
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = stat.Ino
		}
		fmt.Fprintf(&print, "%s %d %d %d\n", name, info.ModTime().UnixNano(), info.Size(), inode)
	}
	return print.String()
}

// names are the files to read.
func (f *files) names() ([]string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{f.path}, nil
	}
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == ".yaml" && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, filepath.Join(f.path, entry.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no *.yaml file", f.path)
	}
	if len(names) > MaxFiles {
		return nil, fmt.Errorf("%s holds %d files, want %d at most", f.path, len(names), MaxFiles)
	}
	return names, nil
}

// read offers what the files say, or why they cannot be understood.
func (f *files) read() {
	var all documents
	names, err := f.names()
	if err != nil {
		all.complain(f.path, err.Error())
	}
	for _, name := range names {
		text, readErr := readSmall(name)
		if readErr != nil {
			err = readErr
			all.complain(name, readErr.Error())
			continue
		}
		all.parse(name, text, f.store.kinds)
	}
	if len(all.objects) == 0 && len(all.violations) == 0 && !all.nothingWanted {
		all.complain(f.path, "holds no object; to say that nothing is wanted, write the document {}")
	}
	f.store.setAvailable(err == nil, err)
	f.revision++
	slices.SortFunc(all.objects, compareObjects)
	f.store.offerWhole(Snapshot{
		Origin:     commonv1.Origin_ORIGIN_FILE,
		Revision:   f.revision,
		Objects:    all.objects,
		Violations: all.violations,
	})
}

func readSmall(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if len(text) > MaxFile {
		return nil, fmt.Errorf("larger than %d bytes", MaxFile)
	}
	return text, nil
}

// documents is what was understood of the files, and what was not.
type documents struct {
	objects       []Object
	violations    []*commonv1.Violation
	nothingWanted bool // there is a document {}
}

func (d *documents) complain(field, description string) {
	d.violations = append(d.violations, &commonv1.Violation{Field: field, Description: description})
}

// parse adds the documents of one file.
func (d *documents) parse(file string, text []byte, kinds []Kind) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			// The message has the line.
			d.complain(file, strings.TrimPrefix(err.Error(), "yaml: "))
			return
		}
		if len(document.Content) == 1 {
			d.add(file, document.Content[0], kinds)
		}
	}
}

// add takes in one document.
func (d *documents) add(file string, node *yaml.Node, kinds []Kind) {
	place := func(line int) string { return file + ":" + strconv.Itoa(line) }
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return // only comments between two ---
	}
	if node.Kind != yaml.MappingNode {
		d.complain(place(node.Line), "want a document of fields, the first of them kind")
		return
	}
	if len(node.Content) == 0 {
		d.nothingWanted = true
		return
	}
	fields := map[string]any{}
	if err := node.Decode(&fields); err != nil {
		d.complain(place(node.Line), strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
		return
	}
	kindName, _ := fields["kind"].(string)
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == kindName })
	if i < 0 {
		known := make([]string, len(kinds))
		for i, kind := range kinds {
			known[i] = kind.Name
		}
		d.complain(place(node.Line), fmt.Sprintf("kind: want one of %s, got %q", strings.Join(known, ", "), kindName))
		return
	}
	delete(fields, "kind")
	name, _ := fields["name"].(string)
	if name == "" {
		d.complain(place(node.Line), kindName+": want a name")
		return
	}
	text, err := json.Marshal(fields)
	if err != nil {
		d.complain(key(kindName, name), place(node.Line)+": "+err.Error())
		return
	}
	message, err := decode(kinds[i], text)
	if err != nil {
		d.violations = append(d.violations, violation(key(kindName, name), place(lineOf(node, err))+": ", err))
		return
	}
	if slices.ContainsFunc(d.objects, func(o Object) bool { return o.Kind == kindName && o.Name == name }) {
		d.complain(key(kindName, name), place(node.Line)+": there is another of this name")
		return
	}
	d.objects = append(d.objects, Object{Kind: kindName, Name: name, Message: message})
}

// lineOf finds the line of the field that err is about; otherwise it is the line of the document.
func lineOf(node *yaml.Node, err error) int {
	line := node.Line
	m := (*misread)(nil)
	if !errors.As(err, &m) {
		return line
	}
	for _, step := range m.path {
		next := (*yaml.Node)(nil)
		for i, child := range node.Content {
			switch {
			case node.Kind == yaml.MappingNode && i%2 == 0 && child.Value == step:
				line, next = child.Line, node.Content[i+1]
			case node.Kind == yaml.SequenceNode && i == step:
				line, next = child.Line, child
			}
		}
		if next == nil {
			return line // it is elsewhere, by an anchor
		}
		node = next
	}
	return line
}
