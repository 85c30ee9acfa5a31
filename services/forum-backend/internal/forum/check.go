package forum

import (
	"fmt"
	"net/mail"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what people may send, in characters (code points) unless bytes are said.
const (
	MaxName          = 30
	MaxEmail         = 190
	MinPassword      = 8
	MinAdminPassword = 10
	MaxPassword      = 200 // argon2id has no limit of its own; this one keeps the cost of a login bounded
	MaxTitle         = 120
	MaxBody          = 20000
	MaxBoardName     = 60
	MaxDescription   = 300
	MaxSiteTitle     = 80
	MaxFileName      = 120
	MaxFiles         = 10 // per post
)

// Problem is one thing wrong with a form: which field, and why, for the person who filled it in.
type Problem struct {
	Field, Text string
}

// CheckUser says what is wrong with the name, e-mail address and password of a new user.
func CheckUser(name, email, password string, minPassword int) []Problem {
	var ps []Problem
	if n := utf8.RuneCountInString(name); n < 2 || n > MaxName {
		ps = append(ps, Problem{"name", fmt.Sprintf("want 2 to %d characters, got %d", MaxName, n)})
	} else if !singleSpaces(name) || !plain(name, false) {
		ps = append(ps, Problem{"name", "want letters, digits, marks and single spaces, with none at the ends"})
	}
	if !validEmail(email) {
		ps = append(ps, Problem{"email", "want an address such as name@example.com"})
	}
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password):
		ps = append(ps, Problem{"password", "want UTF-8 text"})
	case n < minPassword || n > MaxPassword:
		ps = append(ps, Problem{"password", fmt.Sprintf("want %d to %d characters, got %d", minPassword, MaxPassword, n)})
	}
	return ps
}

// singleSpaces reports whether s has single spaces only, of the plain kind, and none at its ends: a browser shows several
// as one, and others as if they were plain.
func singleSpaces(s string) bool {
	return strings.Join(strings.Fields(s), " ") == s
}

func validEmail(s string) bool {
	if len(s) > MaxEmail || !utf8.ValidString(s) {
		return false
	}
	a, err := mail.ParseAddress(s)
	return err == nil && a.Name == "" && a.Address == s && plain(s, false)
}

// CheckThread says what is wrong with a new thread.
func CheckThread(title, body string) []Problem {
	return append(checkLine("title", title, 1, MaxTitle), CheckBody(body)...)
}

// CheckBody says what is wrong with the text of a post.
func CheckBody(body string) []Problem {
	switch n := utf8.RuneCountInString(body); {
	case strings.TrimSpace(body) == "":
		return []Problem{{"body", "the text is empty"}}
	case n > MaxBody:
		return []Problem{{"body", fmt.Sprintf("want at most %d characters, got %d", MaxBody, n)}}
	case !plain(body, true):
		return []Problem{{"body", "want UTF-8 text without control characters"}}
	}
	return nil
}

// CheckBoard says what is wrong with a new board.
func CheckBoard(name, description string) []Problem {
	return append(checkLine("name", name, 1, MaxBoardName), checkLine("description", description, 0, MaxDescription)...)
}

// CheckSiteTitle says what is wrong with the title of the forum.
func CheckSiteTitle(title string) []Problem { return checkLine("title", title, 1, MaxSiteTitle) }

func checkLine(field, s string, least, most int) []Problem {
	if n := utf8.RuneCountInString(strings.TrimSpace(s)); n < least || utf8.RuneCountInString(s) > most {
		return []Problem{{field, fmt.Sprintf("want %d to %d characters, got %d", least, most, n)}}
	}
	if !plain(s, false) {
		return []Problem{{field, "want one line of UTF-8 text without control characters"}}
	}
	return nil
}

// plain reports whether s is UTF-8 without control characters and without the invisible characters that let one name
// pass for another (direction overrides, zero-width ones, fillers); a text may have line breaks, tabs, joiners and fillers.
func plain(s string, text bool) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		switch {
		case text && (r == '\n' || r == '\t' || r == '\u200c' || r == '\u200d'):
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029', r == utf8.RuneError:
			return false
		case !text && (unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || r == '\u2800'): // Hangul fillers, Braille blank
			return false
		}
	}
	return true
}

// CleanBody gives a text from a form the line breaks of this platform and no spaces at the end.
func CleanBody(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	return strings.TrimRightFunc(s, unicode.IsSpace)
}

// CleanFileName makes a name that is safe to show and to send in a header from whatever a browser sent. It never
// decides where a file is written.
func CleanFileName(s string) string {
	s = strings.ToValidUTF8(s, "_")
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune(`"<>:|?*%`, r) || r == '\u2028' || r == '\u2029' {
			return '_'
		}
		return r
	}, s)
	s = strings.Trim(s, " .")
	if s == "" {
		return "file"
	}
	if rs := []rune(s); len(rs) > MaxFileName {
		ext := []rune(path.Ext(s))
		if len(ext) > 16 {
			ext = nil
		}
		s = string(rs[:MaxFileName-len(ext)]) + string(ext)
	}
	return s
}

// OctetStream is the type of every file that is not a picture which browsers show safely.
const OctetStream = "application/octet-stream"

// imageExtensions are the types that may be shown in a page, with the ending of their files. SVG is not among them: it
// can carry scripts.
var imageExtensions = map[string]string{"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}

// FileType answers the type under which a file is kept: the sniffed one for pictures, else OctetStream.
func FileType(sniffed string) string {
	if _, ok := imageExtensions[sniffed]; ok {
		return sniffed
	}
	return OctetStream
}

// Extension is the ending that a file of this type gets on disk. Everything that is not a picture gets one that no web
// server runs or shows.
func Extension(fileType string) string {
	if ext, ok := imageExtensions[fileType]; ok {
		return ext
	}
	return "attach"
}

var filePath = regexp.MustCompile(`^attachment/forum/[0-9]{6}/[0-9]{2}/[0-9]{6}[0-9a-f]{16}\.(png|jpg|gif|webp|attach)$`)

// CheckFilePath reports whether p is a path that an upload can have: attachment/forum/YYYYMM/DD/HHMMSS<16 hex>.<ext>.
func CheckFilePath(p string) bool { return filePath.MatchString(p) }
