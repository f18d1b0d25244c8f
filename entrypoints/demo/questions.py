"""Twenty questions with five passages each, the right one first. The demo shows the first three.

The passages are such as a search would bring: the right one mentions what is asked about, the others are on the same
subject. The first three are the demo's of old; the seventeen others were written before the model was asked, and none
was left out or changed afterwards. ``tests/demo`` holds how many of them have the right passage first.
"""

SHOWN = 3

QUESTIONS = {
    "How do I undo the last git commit but keep my changes?": [
        "git reset --soft HEAD~1 moves the branch back by one commit and leaves your changes staged.",
        "git push uploads the commits of a branch to a remote repository.",
        "A commit message should say in one line what was changed and why.",
        "git clone copies a repository to your machine together with its whole history.",
        "The undo button of an editor restores the text before the last keystroke.",
    ],
    "Why is the sky blue?": [
        "Air molecules scatter short wavelengths of sunlight much more than long ones, so blue light reaches us from "
        "every part of the sky.",
        "The sea is salty because rivers carry dissolved minerals into it.",
        "At sunset the light crosses more air, which leaves the red and orange colours.",
        "Blue is the favourite colour of many people.",
        "The Moon is seen because it reflects the light of the Sun.",
    ],
    "What is the capital of China?": [
        "The capital of China is Beijing.",
        "Shanghai is the largest city of China by population.",
        "Gravity attracts two bodies towards each other and gives weight to physical objects.",
        "Venture capital pays for young companies in exchange for a share of them.",
        "The Great Wall of China was built over many centuries.",
    ],
    "How do I find large files on Linux?": [
        "To find large files on Linux, run du -ah / | sort -h | tail, which lists the biggest ones with their sizes.",
        "The command cp copies files on Linux, and mv moves them to another folder.",
        "Files on Linux have an owner, a group and permissions, which ls -l shows.",
        "Linux keeps its configuration files in the folder /etc.",
        "A file server stores the files of a whole office in one place.",
    ],
    "Who painted the Mona Lisa?": [
        "The Mona Lisa was painted by Leonardo da Vinci at the beginning of the sixteenth century.",
        "The Mona Lisa hangs in the Louvre in Paris, behind thick glass.",
        "The Mona Lisa was stolen in 1911 and came back two years later.",
        "Vincent van Gogh painted sunflowers in the south of France.",
        "Painters of the Renaissance mixed their colours with egg or oil.",
    ],
    "Why do onions make you cry?": [
        "Onions make you cry because cutting them frees a gas that irritates the eyes.",
        "Onions should be stored in a dark, dry place, away from potatoes.",
        "Fry the onions slowly in butter until they are golden.",
        "Babies cry when they are hungry, tired or wet.",
        "Onions belong to the same family of plants as garlic and leek.",
    ],
    "What does HTTP status 404 mean?": [
        "Status 404 means that the server did not find the page that was asked for.",
        "Status 500 means that an error happened inside the server.",
        "HTTP is the protocol that web browsers and servers use to talk.",
        "A web server writes each request with its status into a log.",
        "The status bar shows the address that a link leads to.",
    ],
    "How do I get rid of ants in the kitchen?": [
        "To get rid of ants in the kitchen, close the gaps where they come in, wipe away their trails "
        "and put out bait.",
        "Ants live in colonies with one queen and thousands of workers.",
        "A kitchen should be aired after cooking to let the steam out.",
        "Wash kitchen towels at sixty degrees at least.",
        "Ants can carry many times their own weight.",
    ],
    "How long do I have to return a product?": [
        "You may return a product within 30 days of delivery and get your money back.",
        "Our products come with a warranty of two years against faults.",
        "Delivery of a product takes two to four working days.",
        "The product is sold in three sizes and five colours.",
        "To change an order, write to us before it has been sent.",
    ],
    "What causes tides in the ocean?": [
        "Tides in the ocean are caused by the gravity of the Moon and the Sun.",
        "The Pacific is the largest and deepest ocean on Earth.",
        "Ocean water is salty because rivers wash minerals out of the rocks.",
        "Waves on the ocean are made by the wind that blows across the water.",
        "Many ocean fish live in large shoals.",
    ],
    "How do I read a JSON file in Python?": [
        "To read a JSON file in Python, open it and pass it to json.load, which returns dictionaries and lists.",
        "The csv module of Python reads and writes tables with commas.",
        "JSON is a text format that was derived from JavaScript.",
        "Python files end in .py and are run by the interpreter.",
        "Write a JSON file with two spaces of indentation to make it easy to read for people.",
    ],
    "Can dogs eat chocolate?": [
        "Dogs must not eat chocolate, since the theobromine in it is poisonous to them.",
        "Dogs should be walked at least twice a day.",
        "Chocolate is made from the roasted beans of the cacao tree.",
        "Dogs eat dry or wet food once or twice a day.",
        "Dark chocolate contains more cocoa than milk chocolate.",
    ],
    "When did the first human land on the Moon?": [
        "The first human landed on the Moon on 20 July 1969: it was Neil Armstrong.",
        "The Moon is about 384,000 kilometres away from the Earth.",
        "The first human in space was Yuri Gagarin in April 1961.",
        "The Moon has no air, so its sky is black even by day.",
        "A lunar eclipse happens when the shadow of the Earth falls on the Moon.",
    ],
    "How can I fall asleep faster?": [
        "To fall asleep faster, keep the bedroom dark and cool and put the phone away an hour before.",
        "Adults need between seven and nine hours of sleep a night.",
        "Horses can sleep while they stand.",
        "Dreams happen mostly in one phase of sleep, when the eyes move fast.",
        "The sleep mode of a computer saves power and wakes up faster than a start.",
    ],
    "What is the difference between RAM and a hard disk?": [
        "RAM is fast and loses its content without power, whereas a hard disk is slower and keeps the data.",
        "A hard disk can be divided into several partitions.",
        "Most laptops can be fitted with more RAM.",
        "A hard disk with bad sectors should be replaced soon.",
        "The operating system is started from the hard disk.",
    ],
    "How do I remove a red wine stain from a shirt?": [
        "To remove a red wine stain from a shirt, blot it, cover it with salt and wash it in cold water.",
        "Red wine should be served a little below room temperature.",
        "Iron a cotton shirt while it is still slightly damp.",
        "A white shirt goes well with a dark suit.",
        "Stains on wooden tables can be sanded away.",
    ],
    "Why does bread rise?": [
        "Bread rises because yeast turns sugar in the dough into gas, whose bubbles lift it.",
        "Bread is stored best in a paper bag at room temperature.",
        "The price of bread rose by four percent last year.",
        "Sliced bread can be frozen for up to three months.",
        "Bread was baked in stone ovens in ancient Egypt.",
    ],
    "How do I treat a burn from boiling water?": [
        "Treat a burn from boiling water by holding it under cool running water for twenty minutes.",
        "Water boils at a lower temperature on high mountains.",
        "Boil the water for one minute before you drink it.",
        "Sunburn is prevented with a hat and a lotion of factor 50.",
        "A kettle switches itself off when the water boils.",
    ],
    "How many players are on a football team?": [
        "A football team has eleven players on the field, one of them the goalkeeper.",
        "A football match lasts ninety minutes, with a break after forty-five.",
        "Football players wear shoes with studs for a better grip.",
        "A football team that loses twice is out of the cup.",
        "A basketball game is divided into four quarters.",
    ],
    "How can I make my laptop battery last longer?": [
        "A laptop battery lasts longer with a dimmer screen and with fewer programs in the background.",
        "The laptop comes with a charger and a quick guide.",
        "Batteries must not be thrown into the household waste.",
        "The battery of an electric car is guaranteed for eight years.",
        "The laptop weighs 1.3 kilograms and is available in two colours.",
    ],
}
