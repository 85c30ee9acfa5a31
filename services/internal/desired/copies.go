package desired

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/wholefile"
)

// copies keeps the last good copy on disk: <state-dir>/<service>-desired.json, for its user alone.
type copies struct {
	path   string // empty: keep nothing
	origin commonv1.Origin
}

// savedState is the file. Cluster and etags are what tells a continuation of the history from another etcd.
type savedState struct {
	Format   int           `json:"format"`
	Origin   string        `json:"origin"`
	Cluster  string        `json:"cluster,omitempty"` // hexadecimal
	Revision int64         `json:"revision"`
	Objects  []savedObject `json:"objects"`
}

type savedObject struct {
	Kind    string          `json:"kind"`
	Name    string          `json:"name"`
	Etag    string          `json:"etag,omitempty"`
	Message json.RawMessage `json:"message"`
}

// savedFormat is raised when the file changes in a way that an older program would misread.
const savedFormat = 1

func openCopies(dir, service string, origin commonv1.Origin) (*copies, error) {
	c := &copies{origin: origin}
	if dir == "" {
		return c, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c.path = filepath.Join(dir, service+"-desired.json")
	return c, nil
}

// load reads the copy. Without one, or with one of another kind of source, the snapshot is the zero value. When only the
// objects cannot be read, the error comes with a snapshot that has the history.
func (c *copies) load(kinds []Kind) (Snapshot, error) {
	if c.path == "" {
		return Snapshot{}, nil
	}
	text, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, nil
	}
	if err != nil {
		return Snapshot{}, err
	}
	var saved savedState
	if err := json.Unmarshal(text, &saved); err != nil {
		return Snapshot{}, err
	}
	if saved.Format != savedFormat {
		return Snapshot{}, fmt.Errorf("format %d, want %d", saved.Format, savedFormat)
	}
	if saved.Origin != c.origin.String() {
		return Snapshot{}, nil
	}
	snapshot := Snapshot{Revision: saved.Revision}
	if saved.Cluster != "" {
		cluster, err := strconv.ParseUint(saved.Cluster, 16, 64)
		if err != nil {
			return Snapshot{}, fmt.Errorf("cluster id: %w", err)
		}
		snapshot.history = history{cluster: cluster, revision: saved.Revision, keys: map[string]int64{}}
		for _, o := range saved.Objects {
			changed, err := strconv.ParseInt(o.Etag, 10, 64)
			if err != nil {
				return Snapshot{}, fmt.Errorf("etag of %s: %w", key(o.Kind, o.Name), err)
			}
			snapshot.history.keys[key(o.Kind, o.Name)] = changed
		}
	}
	for _, o := range saved.Objects {
		i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == o.Kind })
		if i < 0 {
			return Snapshot{history: snapshot.history}, fmt.Errorf("unknown kind %q", o.Kind)
		}
		message, err := decode(kinds[i], o.Message)
		if err != nil {
			return Snapshot{history: snapshot.history}, fmt.Errorf("%s: %w", key(o.Kind, o.Name), err)
		}
		snapshot.Objects = append(snapshot.Objects, Object{Kind: o.Kind, Name: o.Name, Message: message, Etag: o.Etag})
	}
	slices.SortFunc(snapshot.Objects, compareObjects)
	snapshot.Origin = commonv1.Origin_ORIGIN_LAST_GOOD
	return snapshot, nil
}

// save replaces the copy as a whole: after a crash there is the old one or the new one.
func (c *copies) save(snapshot Snapshot) error {
	if c.path == "" {
		return nil
	}
	saved := savedState{Format: savedFormat, Origin: c.origin.String(), Revision: snapshot.Revision, Objects: []savedObject{}}
	if snapshot.history.known() {
		saved.Cluster = hex(snapshot.history.cluster)
	}
	for _, o := range snapshot.Objects {
		text, err := encode(o.Message)
		if err != nil {
			return fmt.Errorf("%s: %w", key(o.Kind, o.Name), err)
		}
		saved.Objects = append(saved.Objects, savedObject{Kind: o.Kind, Name: o.Name, Etag: o.Etag, Message: text})
	}
	text, err := json.MarshalIndent(saved, "", " ")
	if err != nil {
		return err
	}
	return wholefile.Replace(c.path, append(text, '\n'))
}
