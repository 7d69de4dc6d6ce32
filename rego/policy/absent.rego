# The part of `package policy` that must exist where the organisation has written none: a function
# that is called must be defined. Absent rules (`deny`, `allow`, `caching`) need no stand-in. (No
# metadata here: a package has one description, and this one is the organisation's to describe.)
package policy

# No condition has this name, for names start with a letter: what is not defined does not hold.
condition("", _, _) := false
