package http1

// ValidName reports whether b is a token: a field name or a method (RFC 9110 sections 5.1 and 9.1).
func ValidName(b []byte) bool { return isToken(b) }

// ValidValue reports whether b is a field value without space around it (RFC 9110 section 5.5).
func ValidValue(b []byte) bool { return all(b, classValue) && len(Trim(b)) == len(b) }
